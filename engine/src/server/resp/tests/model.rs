//! Pipelines at random, with answers at random times: the client must see what it would have seen
//! had each request been executed before the next was sent.

use super::*;
use proptest::prelude::*;

fn request() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec!["a", "b", "c"]);
    (0..16u8, key.clone(), key).prop_map(|(kind, key, other)| match kind {
        0 | 1 => format!("GET {key}"),
        2 => format!("SET {key} 7"),
        3 => format!("SET {key} 5 NX GET"),
        4 | 5 => format!("INCR {key}"),
        6 => format!("APPEND {key} 1"),
        7 => format!("DEL {key} {other}"),
        8 => format!("MGET {key} {other}"),
        9 => format!("EXISTS {key} {other} {key}"),
        10 => "DBSIZE".to_owned(),
        11 => "MULTI".to_owned(),
        12 | 13 => "EXEC".to_owned(),
        14 => format!("WATCH {key} {other}"),
        _ => "FLUSHDB".to_owned(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pipelines_look_sequential(
        requests in prop::collection::vec(request(), 1..25),
        releases in prop::collection::vec(any::<prop::sample::Index>(), 1..200),
    ) {
        block_on(async {
            // One after the other, answered at once.
            let mut sequential = Client::new(Fake::default());
            for request in &requests {
                sequential.send(format!("{request}\r\n")).await;
            }
            sequential.stream.shutdown().await.unwrap();
            let mut expected = Vec::new();
            sequential.stream.read_to_end(&mut expected).await.unwrap();

            let mut client = Client::new(Fake::holding());
            client.send(requests.join("\r\n") + "\r\n").await;
            client.stream.shutdown().await.unwrap();
            let mut releases = releases.iter().cycle();
            settle().await;
            while client.fake.held() > 0 {
                let index = releases.next().expect("a cycle").index(client.fake.held());
                client.fake.release(index);
                settle().await;
            }
            client.expect(expected).await;
            client.expect_end().await;
        });
    }
}
