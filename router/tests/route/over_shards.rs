//! Requests whose keys lie in several shards.

use crate::world::{Prank, World, late, soon};
use bytes::Bytes;
use flotilla_router::{PageOptions, RouteError, Router};
use flotilla_shard::{KeyRange, Refusal};
use std::time::Duration;

fn filled(borders: &[&str]) -> World {
    let world = World::new(borders);
    for letter in b'a'..=b'z' {
        let key = Bytes::copy_from_slice(&[letter]);
        world.shared.lock().rows.insert(key.clone(), key);
    }
    world
}

fn keys(text: &str) -> Vec<Bytes> {
    text.bytes().map(|letter| Bytes::copy_from_slice(&[letter])).collect()
}

fn range(start: &'static str, end: Option<&'static str>) -> KeyRange {
    KeyRange::new(start, end.map(Bytes::from))
}

fn options(rows_max: u32, reverse: bool) -> PageOptions {
    PageOptions { rows_max, bytes_max: 1 << 20, reverse, keys_only: false }
}

/// All keys of `range`, read page by page.
async fn walk(router: &Router, range: KeyRange, rows_max: u32, reverse: bool) -> String {
    let mut text = String::new();
    let mut rest = Some(range);
    while let Some(range) = rest {
        let page = router.page(range, options(rows_max, reverse), late()).await.unwrap();
        text.extend(page.rows.iter().map(|(key, _)| key[0] as char));
        rest = page.rest;
    }
    text
}

#[tokio::test]
async fn values_come_in_the_order_of_the_keys() {
    let world = filled(&["h", "p"]);
    let values = world.router(2).get_many(keys("zaq0haz"), late()).await.unwrap();
    let text: Vec<_> = values.iter().map(|entry| entry.as_ref().map(|e| e.value[0])).collect();
    let expected = [Some(b'z'), Some(b'a'), Some(b'q'), None, Some(b'h'), Some(b'a'), Some(b'z')];
    assert_eq!(text, expected);
    let mut asked = world.asked();
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 3], "once per shard");
    assert_eq!(world.router(1).get_many(Vec::new(), late()).await, Ok(Vec::new()));
}

#[tokio::test]
async fn deletions_are_counted_over_all_shards() {
    let world = filled(&["h", "p"]);
    assert_eq!(world.router(1).delete_many(keys("az0az"), late()).await, Ok(2));
    assert_eq!(world.router(1).count(KeyRange::whole(), late()).await, Ok(24));
    assert_eq!(world.router(3).count(range("g", Some("q")), late()).await, Ok(10));
    world.router(3).delete_range(range("g", Some("q")), late()).await.unwrap();
    assert_eq!(world.router(2).count(KeyRange::whole(), late()).await, Ok(14));
    assert_eq!(world.router(2).count(range("z", Some("a")), late()).await, Ok(0));
}

#[tokio::test]
async fn pages_walk_the_shards_both_ways() {
    let world = filled(&["h", "p"]);
    let all: String = ('a'..='z').collect();
    for rows_max in [1, 3, 100] {
        let router = world.router(1);
        assert_eq!(walk(router, KeyRange::whole(), rows_max, false).await, all);
        let backwards: String = all.chars().rev().collect();
        assert_eq!(walk(router, KeyRange::whole(), rows_max, true).await, backwards);
        assert_eq!(walk(router, range("g", Some("q")), rows_max, false).await, "ghijklmnop");
        assert_eq!(walk(router, range("g", Some("q")), rows_max, true).await, "ponmlkjihg");
        assert_eq!(walk(router, range("q", Some("g")), rows_max, false).await, "");
    }
}

#[tokio::test]
async fn a_split_under_a_walk_changes_nothing() {
    let world = filled(&["p"]);
    let router = world.router(2);
    let page = router.page(KeyRange::whole(), options(5, false), late()).await.unwrap();
    assert_eq!(page.rows.len(), 5);
    world.split("h", 7);
    world.split("t", 8);
    assert_eq!(walk(router, page.rest.unwrap(), 4, false).await, "fghijklmnopqrstuvwxyz");
    let whole = walk(world.router(3), KeyRange::whole(), 4, true).await;
    assert_eq!(whole, "zyxwvutsrqponmlkjihgfedcba");
}

#[tokio::test]
async fn a_split_on_the_way_cuts_the_parts_anew() {
    let world = filled(&["p"]);
    world.split("h", 7);
    world.split("d", 8);
    let values = world.router(3).get_many(keys("zhda"), late()).await.unwrap();
    assert!(values.iter().all(Option::is_some));
    let world = filled(&["p"]);
    world.split("h", 7);
    assert_eq!(world.router(2).count(KeyRange::whole(), late()).await, Ok(26));
    world.split("t", 8);
    assert_eq!(world.router(2).delete_many(keys("zhda"), late()).await, Ok(4));
    world.router(1).delete_range(KeyRange::whole(), late()).await.unwrap();
    assert!(world.shared.lock().rows.is_empty());
}

#[tokio::test]
async fn a_change_done_in_part_never_looks_undone() {
    let world = filled(&["h", "p"]);
    let busy = || Prank::Say(Refusal::Busy { retry_after: Duration::from_millis(1) });
    world.prank(2, busy());
    let error = world.router(1).delete_many(keys("aiz"), late()).await.unwrap_err();
    assert!(matches!(&error, RouteError::Partial { .. }), "{error}");
    assert!(error.maybe_committed() && !error.is_retryable());
    assert!(error.to_string().contains("busy"), "{error}");
    // Refused by all: nothing was done, and that is what is said.
    for node in 1..=3 {
        world.prank(node, busy());
    }
    let error = world.router(1).delete_many(keys("biz"), late()).await.unwrap_err();
    assert!(matches!(error, RouteError::Busy { .. }));
    // One is in doubt, one is refused: in doubt says more.
    world.prank(1, busy());
    world.prank(2, Prank::Say(Refusal::Timeout { maybe_committed: true }));
    world.prank(3, busy());
    let change = world.router(1).delete_range(KeyRange::whole(), soon());
    // And stays in doubt, since there is nobody to ask again.
    world.shared.lock().leaders.clear();
    assert_eq!(change.await, Err(RouteError::Timeout { maybe_committed: true }));
}
