//! Transactions, silence, and named writes, as far as they are the connection's business.

use super::*;
use flotilla_router::RouteError;
use flotilla_shard::Origin;
use std::time::Duration;

#[test]
fn a_transaction_is_one_operation() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("MULTI\r\nSET a 1\r\nINCR a\r\nGET a\r\nPING\r\nEXEC\r\nSET b 1\r\n").await;
        client.expect("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n").await;
        assert_eq!(client.fake.held(), 2);
        client.fake.release(1);
        client.fake.release(0);
        client.expect("*4\r\n+OK\r\n:2\r\n$1\r\n2\r\n+PONG\r\n+OK\r\n").await;
    });
}

#[test]
fn keys_of_a_transaction_wait_and_are_waited_for() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\nMULTI\r\nINCR a\r\nSET b 5\r\nEXEC\r\nGET b\r\n").await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        settle().await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        settle().await;
        client.fake.release(0);
        let queued = "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n";
        client.expect(format!("{queued}*2\r\n:2\r\n+OK\r\n$1\r\n5\r\n")).await;
    });
}

#[test]
fn nothing_after_a_watch_is_judged_before_its_answer() {
    block_on(async {
        let fake = Fake::holding();
        fake.put("a", "old");
        let mut client = Client::new(fake);
        client.send("WATCH a\r\nMULTI\r\nGET a\r\nEXEC\r\nGET a\r\n").await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        client.expect("+OK\r\n+OK\r\n+QUEUED\r\n").await;
        settle().await;
        // Between the watch and the execution somebody else writes.
        client.fake.put("a", "new");
        while client.fake.held() > 0 {
            client.fake.release(0);
            settle().await;
        }
        client.expect("*-1\r\n$3\r\nnew\r\n").await;
    });
}

#[test]
fn a_watch_that_failed_lets_the_transaction_fail() {
    block_on(async {
        let fake = Fake::default();
        fake.fail(RouteError::Busy { retry_after: Duration::from_millis(10) });
        let mut client = Client::new(fake);
        client.send("WATCH a\r\nMULTI\r\nPING\r\nEXEC\r\nMULTI\r\nPING\r\nEXEC\r\n").await;
        client.expect("-BUSY busy: retry after 10ms\r\n+OK\r\n+QUEUED\r\n").await;
        client
            .expect("-EXECABORT Transaction discarded because a WATCH before it failed.\r\n")
            .await;
        client.expect("+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n").await;
    });
}

#[test]
fn a_transaction_is_bounded() {
    block_on(async {
        let options = RespOptions { transaction_bytes_max: 500, ..RespOptions::default() };
        let mut client = Client::connect(Fake::default(), options, 1 << 20);
        client.send("MULTI\r\nSET a 1\r\nSET b 1\r\nSET c 1\r\nSET d 1\r\nEXEC\r\n").await;
        client.expect(format!("+OK\r\n{}", "+QUEUED\r\n".repeat(3))).await;
        client.expect("-ERR the transaction exceeds the limit of 500 bytes\r\n").await;
        client.expect("-EXECABORT Transaction discarded because of previous errors.\r\n").await;
        assert_eq!(client.fake.started(), 0);
    });
}

#[test]
fn the_values_in_one_reply_are_bounded() {
    block_on(async {
        let fake = Fake::default();
        fake.put("a", "x".repeat(100));
        let options = RespOptions { reply_bytes_max: 250, ..RespOptions::default() };
        let mut client = Client::connect(fake, options, 1 << 20);
        client.send("MULTI\r\nGET a\r\nGET a\r\nGET a\r\nSTRLEN a\r\nEXEC\r\n").await;
        client.expect(format!("+OK\r\n{}", "+QUEUED\r\n".repeat(4))).await;
        let value = format!("$100\r\n{}\r\n", "x".repeat(100));
        client.expect(format!("*4\r\n{value}{value}-ERR done, but the values are left out")).await;
    });
}

#[test]
fn silence_covers_replies_that_come_late() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("CLIENT REPLY OFF\r\nSET a 1\r\nNOSUCH\r\nPING\r\n").await;
        client.send("CLIENT REPLY ON\r\nGET a\r\n").await;
        client.fake.release(0);
        settle().await;
        client.fake.release(0);
        client.expect("+OK\r\n$1\r\n1\r\n").await;
    });
}

#[test]
fn a_named_write_carries_its_name() {
    block_on(async {
        let mut client = Client::new(Fake::default());
        client.send("FLOTILLA.ONCE 7 1000 3 2 INCR n\r\n").await;
        client.expect(":1\r\n").await;
        let origin =
            Origin { session: 7, session_born_ms: 1000, sequence: 3, lowest_unacknowledged: 2 };
        assert_eq!(client.fake.origins(), [origin]);
        for (request, reply) in [
            ("0 1 1 1 INCR n", "-ERR the session and the sequence must be positive\r\n"),
            ("1 1 0 0 INCR n", "-ERR the session and the sequence must be positive\r\n"),
            ("1 1 x 1 INCR n", "-ERR value is not an integer or out of range\r\n"),
            ("1 1 1 -1 INCR n", "-ERR value is not an integer or out of range\r\n"),
            ("1 1 1 1 INCR", "-ERR wrong number of arguments for 'incr' command\r\n"),
            ("1 1 1 1 INCRBY n x", "-ERR value is not an integer or out of range\r\n"),
        ] {
            client.send(format!("FLOTILLA.ONCE {request}\r\n")).await;
            client.expect(reply).await;
        }
        for wrapped in ["GET n", "MGET a b", "DEL a b", "FLUSHALL", "MULTI", "PING"] {
            client.send(format!("FLOTILLA.ONCE 1 1 1 1 {wrapped}\r\n")).await;
            let name = wrapped.split(' ').next().unwrap().to_lowercase();
            let rest = "is not one write on the keys of one shard and cannot be done once";
            client.expect(format!("-ERR {name} {rest}\r\n")).await;
        }
        assert_eq!(client.fake.origins().len(), 1);
    });
}
