//! Which requests run side by side, and that replies stay in order.

use super::*;
use flotilla_router::RouteError;
use std::time::Duration;

#[test]
fn different_keys_run_side_by_side_and_answer_in_order() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\nSET b 2\r\nGET c\r\nPING\r\nINCR n\r\n").await;
        assert_eq!(client.fake.held(), 4);
        for _ in 0..4 {
            client.fake.release(client.fake.held() - 1);
        }
        client.expect("+OK\r\n+OK\r\n$-1\r\n+PONG\r\n:1\r\n").await;
    });
}

#[test]
fn a_key_being_written_is_waited_for() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\nGET a\r\nSET b 2\r\n").await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        client.expect("+OK\r\n").await;
        settle().await;
        assert_eq!(client.fake.held(), 2);
        client.fake.release(1);
        client.fake.release(0);
        client.expect("$1\r\n1\r\n+OK\r\n").await;
    });
}

#[test]
fn a_key_being_read_is_waited_for_by_writes_only() {
    block_on(async {
        let fake = Fake::holding();
        fake.put("a", "old");
        let mut client = Client::new(fake);
        client.send("GET a\r\nSTRLEN a\r\nMGET b a\r\nSET a new\r\n").await;
        assert_eq!(client.fake.held(), 3);
        for _ in 0..3 {
            client.fake.release(0);
        }
        client.expect("$3\r\nold\r\n:3\r\n*2\r\n$-1\r\n$3\r\nold\r\n").await;
        settle().await;
        client.fake.release(0);
        client.expect("+OK\r\n").await;
    });
}

#[test]
fn several_keys_wait_for_each_of_them() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET b 1\r\nMGET a b\r\n").await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        settle().await;
        client.send("DEL a x\r\nGET x\r\nGET y\r\n").await;
        // The deletion touches a key being read, and is next in turn: nothing overtakes it.
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        settle().await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        settle().await;
        assert_eq!(client.fake.held(), 2);
        client.fake.release(0);
        client.fake.release(0);
        client.expect("+OK\r\n*2\r\n$-1\r\n$1\r\n1\r\n:0\r\n$-1\r\n$-1\r\n").await;
    });
}

#[test]
fn requests_on_all_keys_wait_for_all_and_are_waited_for() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\nDBSIZE\r\nSET b 1\r\nPING\r\nFLUSHALL\r\nGET a\r\n").await;
        for reply in ["+OK\r\n", ":1\r\n", "+OK\r\n+PONG\r\n", "+OK\r\n", "$-1\r\n"] {
            assert_eq!(client.fake.held(), 1);
            client.fake.release(0);
            client.expect(reply).await;
            settle().await;
        }
        assert_eq!(client.fake.held(), 0);
    });
}

#[test]
fn the_protocol_changes_between_two_replies() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("GET a\r\nHELLO 3\r\nGET b\r\n").await;
        client.fake.release(1);
        client.fake.release(0);
        client.expect("$-1\r\n%7\r\n$6\r\nserver\r\n$8\r\nflotilla\r\n").await;
        client.expect("$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:3\r\n").await;
        client.expect("$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n").await;
        client.expect("$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n_\r\n").await;
    });
}

#[test]
fn failures_are_told_by_what_may_have_happened() {
    let busy = RouteError::Busy { retry_after: Duration::from_millis(10) };
    let lost = RouteError::Timeout { maybe_committed: true };
    let cases = [
        (busy.clone(), "SET a 1", "-BUSY busy: retry after 10ms\r\n"),
        (busy, "MGET a b", "-BUSY busy: retry after 10ms\r\n"),
        (
            lost.clone(),
            "SET a 1",
            "-INDOUBT timed out; the write may or may not have taken effect\r\n",
        ),
        (
            lost.clone(),
            "DEL a b",
            "-INDOUBT timed out; the write may or may not have taken effect\r\n",
        ),
        (lost, "GET a", "-TRYAGAIN timed out without any effect; it may be retried\r\n"),
        (
            RouteError::NoLeader { group: None },
            "INCR a",
            "-TRYAGAIN no leader of the key's shard was found in time; it may be retried\r\n",
        ),
        (
            RouteError::Partial { cause: Box::new(RouteError::Shutdown) },
            "FLUSHALL",
            "-INDOUBT done in part of the shards only; in another: the node is shutting down\r\n",
        ),
    ];
    for (failure, request, reply) in cases {
        block_on(async {
            let fake = Fake::default();
            fake.fail(failure);
            let mut client = Client::new(fake);
            client.send(format!("{request}\r\nPING\r\n")).await;
            client.expect(format!("{reply}+PONG\r\n")).await;
        });
    }
}

#[test]
fn a_client_that_stops_sending_is_answered() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\nGET a\r\nGET").await;
        client.stream.shutdown().await.unwrap();
        settle().await;
        client.fake.release(0);
        client.expect("+OK\r\n").await;
        settle().await;
        client.fake.release(0);
        client.expect("$1\r\n1\r\n").await;
        client.expect_end().await;
    });
}

#[test]
fn nothing_after_quit_is_served() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\nQUIT\r\nSET b 2\r\n").await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        client.expect("+OK\r\n+OK\r\n").await;
        client.expect_end().await;
    });
}

#[test]
fn a_stopping_server_answers_what_is_under_way() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\n").await;
        client.stop.send_replace(Stop::Soon);
        settle().await;
        client.send("SET b 1\r\n").await;
        assert_eq!(client.fake.held(), 1);
        client.fake.release(0);
        client.expect("+OK\r\n").await;
        client.expect_end().await;
    });
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\n").await;
        client.stop.send_replace(Stop::Now);
        client.expect_end().await;
    });
}
