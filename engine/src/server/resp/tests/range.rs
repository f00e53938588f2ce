//! Ranges of rows: from where to where, how much of it, and after what.

use super::*;

/// The reply that holds `rows` and says where to go on.
fn rows(next: &str, rows: &[(&str, &str)]) -> String {
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let all: String = rows.iter().map(|(key, value)| bulk(key) + &bulk(value)).collect();
    format!("*2\r\n{}*{}\r\n{all}", bulk(next), 2 * rows.len())
}

/// Keys `a`, `c`, `e`, …: one shard holds three of them.
fn filled() -> Fake {
    let fake = Fake::default();
    for key in ["a", "c", "e", "g", "i", "k", "m"] {
        fake.put(key, key.to_uppercase());
    }
    fake
}

#[test]
fn rows_come_from_one_key_to_another_in_order() {
    block_on(async {
        let mut client = Client::new(filled());
        let all = [("c", "C"), ("e", "E"), ("g", "G"), ("i", "I"), ("k", "K"), ("m", "M")];
        let table: [(&str, &str, &[(&str, &str)]); 9] = [
            ("b n", "", &all),
            ("c \"\"", "", &all),
            ("c m", "", &all[..5]),
            ("c m LIMIT 5", "", &all[..5]),
            ("c n LIMIT 5", "m", &all[..5]),
            ("d \"\" limit 1", "g", &all[1..2]),
            ("n \"\"", "", &[]),
            ("e e", "", &[]),
            ("g c", "", &[]),
        ];
        for (range, next, expected) in table {
            client.send(format!("FLOTILLA.RANGE {range}\r\n")).await;
            client.expect(rows(next, expected)).await;
        }
    });
}

#[test]
fn a_reply_ends_when_its_values_are_large() {
    block_on(async {
        let fake = Fake::default();
        let value = "x".repeat(400 << 10);
        for key in ["a", "b", "c", "d", "e"] {
            fake.put(key, value.clone());
        }
        let mut client = Client::connect(fake, RespOptions::default(), 4 << 20);
        let row = |key| (key, value.as_str());
        client.send("FLOTILLA.RANGE a z LIMIT 5\r\n").await;
        client.expect(rows("d", &[row("a"), row("b"), row("c")])).await;
        client.send("FLOTILLA.RANGE d z LIMIT 5\r\n").await;
        client.expect(rows("", &[row("d"), row("e")])).await;
    });
}

#[test]
fn a_reply_ends_when_it_was_put_together_of_many_parts() {
    block_on(async {
        let fake = Fake::default();
        let keys: Vec<String> = (0..300).map(|n| format!("k{n:03}")).collect();
        keys.iter().for_each(|key| fake.put(key, "v"));
        let mut client = Client::new(fake);
        client.send("FLOTILLA.RANGE k l LIMIT 300\r\n").await;
        let first: Vec<(&str, &str)> = keys[..192].iter().map(|key| (key.as_str(), "v")).collect();
        client.expect(rows("k192", &first)).await;
    });
}

#[test]
fn what_is_no_range_is_refused() {
    block_on(async {
        let options = RespOptions { key_bytes_max: 4, ..RespOptions::default() };
        let mut client = Client::connect(filled(), options, 1 << 20);
        let table = [
            ("a", "wrong number of arguments for 'flotilla.range' command"),
            ("a b c", "syntax error"),
            ("a b LIMIT", "syntax error"),
            ("a b COUNT 3", "syntax error"),
            ("a b LIMIT 3 x", "syntax error"),
            ("a b LIMIT x", "value is not an integer or out of range"),
            ("a b LIMIT 0", "the limit must be positive"),
            ("a b LIMIT -1", "the limit must be positive"),
            ("a 123456", "the bound of 6 bytes exceeds the limit of 5"),
        ];
        for (range, error) in table {
            client.send(format!("FLOTILLA.RANGE {range}\r\n")).await;
            client.expect(format!("-ERR {error}\r\n")).await;
        }
        // The place right behind the longest key.
        client.send("FLOTILLA.RANGE 1234x b\r\n").await;
        client.expect(rows("", &[("a", "A")])).await;
        client.send("MULTI\r\nFLOTILLA.RANGE a b\r\nEXEC\r\n").await;
        client.expect("+OK\r\n-ERR ").await;
    });
}

#[test]
fn it_finds_what_was_written_before_it_on_its_connection() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\nSET b 2\r\nFLOTILLA.RANGE a z\r\nSET c 3\r\n").await;
        for index in [1, 0] {
            client.fake.release(index);
            settle().await;
        }
        client.expect("+OK\r\n+OK\r\n").await;
        client.expect(rows("", &[("a", "1"), ("b", "2")])).await;
        settle().await;
        client.fake.release(0);
        client.expect("+OK\r\n").await;
    });
}
