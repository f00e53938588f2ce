//! What a connection holds is bounded, whatever the client does.

use super::*;

#[test]
fn requests_under_way_are_bounded() {
    block_on(async {
        let options = RespOptions { pipeline_requests_max: 4, ..RespOptions::default() };
        let mut client = Client::connect(Fake::holding(), options, 1 << 20);
        let requests: String = (0..10).map(|key| format!("SET {key} v\r\n")).collect();
        client.send(requests).await;
        assert_eq!(client.fake.started(), 4);
        client.fake.release(2);
        settle().await;
        // Its reply waits for two others, so it still counts.
        assert_eq!(client.fake.started(), 4);
        client.fake.release(0);
        settle().await;
        assert_eq!(client.fake.started(), 5);
        while client.fake.held() > 0 {
            client.fake.release(0);
            settle().await;
        }
        client.expect("+OK\r\n".repeat(10)).await;
    });
}

#[test]
fn a_client_that_takes_no_replies_is_not_served_further() {
    block_on(async {
        let fake = Fake::default();
        let value = "x".repeat(10_000);
        fake.put("k", value.clone());
        let options = RespOptions { pipeline_bytes_max: 64 * 1024, ..RespOptions::default() };
        let mut client = Client::connect(fake, options, 16 * 1024);
        // The first reply teaches how large the others will be.
        client.send("GET k\r\n").await;
        let reply = format!("$10000\r\n{value}\r\n");
        client.expect(&reply).await;
        client.send("GET k\r\n".repeat(1000)).await;
        let started = client.fake.started();
        assert!(started < 20, "{started} of 1000 were started");
        client.expect(reply.repeat(1000)).await;
        assert_eq!(client.fake.started(), 1001);
    });
}

#[test]
fn requests_that_need_no_data_are_bounded_too() {
    block_on(async {
        let options = RespOptions { pipeline_bytes_max: 10_000, ..RespOptions::default() };
        let mut client = Client::connect(Fake::default(), options, 1000);
        let word = "y".repeat(100);
        let request = format!("ECHO {word}\r\n");
        let Client { stream, .. } = &mut client;
        let (mut reading, mut writing) = tokio::io::split(stream);
        let sending = async {
            let mut sent = 0;
            // More than the pipes and the limits can hold between them: it must block.
            let all = request.repeat(1000);
            let blocked = tokio::select! {
                biased;
                () = async {
                    for piece in all.as_bytes().chunks(500) {
                        writing.write_all(piece).await.unwrap();
                        sent += piece.len();
                    }
                } => false,
                () = async { for _ in 0..100 { settle().await } } => true,
            };
            assert!(blocked, "all of it was taken");
            assert!(sent < 20_000 + 64 * 1024, "{sent} bytes were taken");
        };
        sending.await;
        let mut some = vec![0; 5000];
        reading.read_exact(&mut some).await.unwrap();
    });
}

#[test]
fn what_is_too_large_is_refused_and_the_client_stays() {
    block_on(async {
        let options = RespOptions {
            key_bytes_max: 10,
            value_bytes_max: 20,
            request_bytes_max: 200,
            ..RespOptions::default()
        };
        let mut client = Client::connect(Fake::default(), options, 1 << 20);
        let key = "k".repeat(11);
        let value = "v".repeat(21);
        let many = "$20\r\nkkkkkkkkkkkkkkkkkkkk\r\n".repeat(9);
        let table = [
            (format!("GET {key}\r\n"), "-ERR the key of 11 bytes exceeds the limit of 10\r\n"),
            (format!("DEL a {key}\r\n"), "-ERR the key of 11 bytes exceeds the limit of 10\r\n"),
            (
                format!("SET a {value}\r\n"),
                "-ERR the value of 21 bytes exceeds the limit of 20\r\n",
            ),
            (
                format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$21\r\n{value}\r\n"),
                "-ERR an argument of 21 bytes exceeds the limit of 20\r\n",
            ),
            (
                format!("*10\r\n$4\r\nMGET\r\n{many}"),
                "-ERR the request exceeds the limit of 200 bytes\r\n",
            ),
            ("GET \"\"\r\n".to_owned(), "-ERR the key is empty; keys have at least one byte\r\n"),
        ];
        for (request, reply) in table {
            client.send(format!("{request}PING\r\n")).await;
            client.expect(format!("{reply}+PONG\r\n")).await;
        }
        assert_eq!(client.fake.started(), 0);
    });
}

#[test]
fn nonsense_is_answered_after_what_came_before_it() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\n*1\r\nx\r\nSET b 2\r\n").await;
        client.fake.release(0);
        client.expect("+OK\r\n-ERR Protocol error: expected '$', got 'x'\r\n").await;
        assert_eq!(client.context.metrics.protocol_errors.get(), 1);
        // What the client still sends is read and dropped, so that the reply is not lost.
        client.send("SET c 3\r\n").await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.fake.started(), 1);
        client.expect_end().await;
    });
}

#[test]
fn browsers_are_cut_off() {
    for request in ["POST / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: localhost\r\n"] {
        block_on(async {
            let mut client = Client::new(Fake::default());
            client.send(format!("{request}\r\nFLUSHALL\r\n")).await;
            assert_eq!(client.fake.started(), 0);
            assert_eq!(client.context.metrics.protocol_errors.get(), 1);
            client.served.await.unwrap();
        });
    }
}

#[test]
fn a_reply_of_many_values_is_bounded() {
    block_on(async {
        let fake = Fake::default();
        fake.put("k", "x".repeat(1000));
        let options = RespOptions { reply_bytes_max: 200_000, ..RespOptions::default() };
        let mut client = Client::connect(fake, options, 1 << 20);
        client.send(format!("MGET{}\r\n", " k".repeat(300))).await;
        client
            .expect(
                "-ERR the values exceed the limit of 200000 bytes in one reply; ask for fewer\r\n",
            )
            .await;
        client.send(format!("MGET{}\r\n", " k".repeat(190))).await;
        client.expect("*190\r\n").await;
        client.expect(format!("$1000\r\n{}\r\n", "x".repeat(1000)).repeat(190)).await;
        client.send(format!("EXISTS{}\r\n", " k".repeat(500))).await;
        client.expect(":500\r\n").await;
    });
}

#[test]
fn scans_go_on_where_they_stood() {
    block_on(async {
        let fake = Fake::default();
        for key in ["a", "b1", "b2", "b3", "b4", "b5", "c"] {
            fake.put(key, "v");
        }
        let options = RespOptions { cursors_max: 2, ..RespOptions::default() };
        let mut client = Client::connect(fake, options, 1 << 20);
        let first = (2u64 << 31) + 1;
        client.send("SCAN 0 COUNT 2\r\n").await;
        client.expect(format!("*2\r\n$10\r\n{first}\r\n*2\r\n$1\r\na\r\n$2\r\nb1\r\n")).await;
        // A cursor may be used again, and its pattern changed.
        for _ in 0..2 {
            client.send(format!("SCAN {first} COUNT 100 MATCH b[34]\r\n")).await;
            client.expect("*2\r\n$1\r\n0\r\n*2\r\n$2\r\nb3\r\n$2\r\nb4\r\n").await;
        }
        client.send(format!("SCAN {first} MATCH a*\r\n")).await;
        client.expect("*2\r\n$1\r\n0\r\n*0\r\n").await;
        client.send("SCAN 0 COUNT 1\r\nSCAN 0 COUNT 1\r\n").await;
        for cursor in [first + 1, first + 2] {
            client.expect(format!("*2\r\n$10\r\n{cursor}\r\n*1\r\n$1\r\na\r\n")).await;
        }
        client.send(format!("SCAN {first}\r\n")).await;
        client.expect(format!("-ERR cursor {first} is not known here: another node ")).await;
    });
}

#[test]
fn the_first_reads_are_few_while_their_size_is_unknown() {
    block_on(async {
        let fake = Fake::holding();
        fake.put("k", "v");
        let mut client = Client::new(fake);
        client.send("GET k\r\n".repeat(1000)).await;
        let first = client.fake.started();
        assert!((2..=64).contains(&first), "{first} were started");
        while client.fake.held() > 0 {
            client.fake.release(0);
            settle().await;
        }
        client.expect("$1\r\nv\r\n".repeat(1000)).await;
        // Replies were small, but the next may be of any size.
        client.send("GET k\r\n".repeat(1000)).await;
        assert_eq!(client.fake.held(), RespOptions::default().pipeline_reads_max);
    });
}

#[test]
fn unread_replies_count_in_the_budget_and_end_with_the_client() {
    block_on(async {
        let fake = Fake::default();
        fake.put("k", "x".repeat(50_000));
        let options = RespOptions { unread_bytes_max: 200_000, ..RespOptions::default() };
        let mut client = Client::connect(fake, options, 1000);
        client.send("GET k\r\n".repeat(50)).await;
        let budget = client.context.budget.clone();
        let unread = budget.part_bytes(flotilla_shard::Part::Replies);
        assert!((150_000..=250_100).contains(&unread), "{unread} bytes are held");
        let reply = format!("$50000\r\n{}\r\n", "x".repeat(50_000));
        client.expect(reply.repeat(50)).await;
        settle().await;
        assert_eq!(budget.part_bytes(flotilla_shard::Part::Replies), 0);

        client.send("GET k\r\n".repeat(50)).await;
        assert!(budget.part_bytes(flotilla_shard::Part::Replies) > 100_000);
        drop(client.stream);
        client.served.await.unwrap();
        assert_eq!(budget.part_bytes(flotilla_shard::Part::Replies), 0);
    });
}

#[test]
fn little_is_held_for_each_client_when_all_hold_much() {
    block_on(async {
        let fake = Fake::default();
        fake.put("k", "x".repeat(10_000));
        let mut client = Client::connect(fake, RespOptions::default(), 1000);
        let budget = client.context.budget.clone();
        let others = budget.account(flotilla_shard::Part::Replies);
        others.add(budget.bytes_max() / 8 * 3);
        client.send("GET k\r\n".repeat(100)).await;
        let unread = budget.part_bytes(flotilla_shard::Part::Replies) - budget.bytes_max() / 8 * 3;
        assert!((50_000..=80_000).contains(&unread), "{unread} bytes are held");
        others.sub(budget.bytes_max() / 8 * 3);
        let reply = format!("$10000\r\n{}\r\n", "x".repeat(10_000));
        client.expect(reply.repeat(100)).await;
    });
}

#[test]
fn few_answers_are_asked_for_while_too_many_are_under_way() {
    block_on(async {
        let fake = Fake::holding();
        fake.put("k", "x".repeat(10_000));
        let mut client = Client::new(fake);
        client.send("GET k\r\n").await;
        client.fake.release(0);
        client.expect(format!("$10000\r\n{}\r\n", "x".repeat(10_000))).await;

        let budget = client.context.budget.clone();
        let others = budget.account(flotilla_shard::Part::Reads);
        others.add(budget.bytes_max() / 4);
        client.send("GET k\r\n".repeat(100)).await;
        assert!((1..=8).contains(&client.fake.held()), "{} were started", client.fake.held());
        others.sub(budget.bytes_max() / 4);
        while client.fake.held() > 0 {
            client.fake.release(0);
            settle().await;
        }
        client.expect(format!("$10000\r\n{}\r\n", "x".repeat(10_000)).repeat(100)).await;
    });
}

/// Large values are asked for one at a time as soon as what others hold or expect leaves no room;
/// what is expected is counted until it is there.
#[test]
fn large_answers_are_foreseen() {
    block_on(async {
        let fake = Fake::holding();
        fake.put("k", "x".repeat(1 << 20));
        let mut client = Client::connect(fake, RespOptions::default(), 8 << 20);
        let budget = client.context.budget.clone();
        client.send("GET k\r\n".repeat(100)).await;
        // A quarter of the budget is sixteen times what a first answer is taken for.
        let held = client.fake.held();
        assert!((12..=16).contains(&held), "{held} were started");
        let expected = budget.account(flotilla_shard::Part::Expected);
        assert_eq!(expected.used_bytes(), (held as u64) << 20);
        assert_eq!(budget.total_bytes(), 0, "it is no more than a forecast");

        let others = budget.account(flotilla_shard::Part::Expected);
        others.add(12 << 20);
        let reply = format!("$1048576\r\n{}\r\n", "x".repeat(1 << 20));
        for _ in 0..held {
            client.fake.release(0);
            client.expect(&reply).await;
            settle().await;
        }
        let held = client.fake.held();
        assert!((1..=4).contains(&held), "{held} are under way beside those of others");
        others.sub(12 << 20);
        drop(client.stream);
        // It finds out when it has something to write.
        client.fake.release(0);
        client.served.await.unwrap();
        assert_eq!(budget.part_bytes(flotilla_shard::Part::Expected), 0);
    });
}

/// Answers that nobody takes hold half of the budget at most: the other half is the door's.
#[test]
fn a_large_reply_without_room_is_refused_and_a_small_one_is_not() {
    block_on(async {
        let fake = Fake::default();
        fake.put("large", "x".repeat(10_000));
        fake.put("small", "x");
        let mut client = Client::connect(fake, RespOptions::default(), 1 << 20);
        let budget = client.context.budget.clone();
        let others = budget.account(flotilla_shard::Part::Replies);
        others.add(budget.bytes_max() / 2 + 1);
        client.send("GET small\r\nGETSET large y\r\nSET large z\r\n").await;
        let previous = format!("$10000\r\n{}\r\n", "x".repeat(10_000));
        client.expect(format!("$1\r\nx\r\n{previous}+OK\r\n")).await;
        client.send(format!("SET large {}\r\nGET large\r\n", "x".repeat(5000))).await;
        client.expect("+OK\r\n-BUSY ").await;
        others.sub(budget.bytes_max() / 2 + 1);
    });
}

#[test]
fn a_client_that_takes_nothing_for_too_long_is_cut_off() {
    block_on(async {
        let fake = Fake::default();
        fake.put("k", "x".repeat(10_000));
        let options = RespOptions {
            unread_bytes_max: 50_000,
            unread_timeout: std::time::Duration::ZERO,
            ..RespOptions::default()
        };
        let mut client = Client::connect(fake, options, 1000);
        client.send("GET k\r\n".repeat(100)).await;
        let Client { served, context, stream, .. } = client;
        served.await.unwrap();
        assert_eq!(context.metrics.connections_stalled.get(), 1);
        assert_eq!(context.clients.len(), 0);
        drop(stream);
    });
}

#[test]
fn a_killed_client_is_closed_and_the_killer_gets_its_reply() {
    block_on(async {
        let mut client = Client::new(Fake::holding());
        client.send("SET a 1\r\n").await;
        assert_eq!(client.context.clients.kill(|_| true), 1);
        client.expect_end().await;
    });
    block_on(async {
        let mut client = Client::new(Fake::default());
        client.send("CLIENT KILL ID 1\r\nCLIENT KILL ID 1 SKIPME no\r\nPING\r\n").await;
        client.expect(":0\r\n:1\r\n").await;
        client.expect_end().await;
    });
}

/// Somebody asks for a thousand things that are all refused. The lane has others to serve.
#[test]
fn who_is_refused_is_read_in_turns_with_rests_between_and_answered_in_order() {
    block_on(async {
        let fake = Fake::default();
        let busy =
            flotilla_router::RouteError::Busy { retry_after: std::time::Duration::from_millis(10) };
        fake.fail(busy);
        let mut client = Client::connect(fake, RespOptions::default(), 1 << 20);
        let begin = std::time::Instant::now();
        client.send("SET key value\r\nPING\r\n".repeat(500)).await;
        client.expect("-BUSY busy: retry after 10ms\r\n+PONG\r\n".repeat(500)).await;
        assert_eq!(client.fake.started(), 500);
        let turns = 1000_u32.div_ceil(64);
        let rests = std::time::Duration::from_millis(1) * (turns - 1);
        assert!(begin.elapsed() >= rests, "{turns} turns took {:?}", begin.elapsed());
    });
}
