//! Parts of strings and sums of decimals.

use crate::support::*;
use bytes::Bytes;
use flotilla_shard::*;

fn set_range(offset: u64, value: &str) -> Write {
    Write::SetRange { key: bytes("k"), offset, value: bytes(value) }
}

#[test]
fn set_range_overwrites_pads_and_never_creates_nothing() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.write(set_range(5, "")), WriteOutcome::Length(0));
    assert_eq!((fixture.get("k"), fixture.machine.shard().version()), (None, 0));
    assert_eq!(fixture.write(set_range(2, "ab")), WriteOutcome::Length(4));
    assert_eq!(fixture.get("k").unwrap().value, Bytes::from_static(b"\0\0ab"));
    fixture.checkpoint();
    assert_eq!(fixture.write(set_range(1, "xy")), WriteOutcome::Length(4));
    assert_eq!(fixture.get("k").unwrap().value, Bytes::from_static(b"\0xyb"));
    assert_eq!(fixture.write(set_range(3, "12")), WriteOutcome::Length(5));
    assert_eq!(fixture.get("k").unwrap().value, Bytes::from_static(b"\0xy12"));
    assert_eq!(fixture.write(set_range(99, "")), WriteOutcome::Length(5));
    let too_large = WriteOutcome::Failed(CommandFailure::TooLarge);
    for offset in [VALUE_BYTES_MAX, u64::MAX] {
        assert_eq!(fixture.write(set_range(offset, "x")), too_large);
    }
    let last = fixture.write(set_range(VALUE_BYTES_MAX - 1, "x"));
    assert_eq!(last, WriteOutcome::Length(VALUE_BYTES_MAX), "just fits");
}

fn add_float(fixture: &mut Fixture, delta: &str) -> WriteOutcome {
    fixture.write(Write::AddFloat { key: bytes("k"), delta: bytes(delta) })
}

#[test]
fn sums_of_decimals_are_stored_as_they_are_answered() {
    let mut fixture = Fixture::new();
    // The last digits are those of an x87 processor, as in Redis.
    for (delta, sum) in
        [("10.50", "10.5"), ("0.1", "10.6"), ("-5", "5.6"), ("5.0e3", "5005.60000000000000009")]
    {
        assert_eq!(add_float(&mut fixture, delta), WriteOutcome::Float(bytes(sum)));
        assert_eq!(fixture.text("k").as_deref(), Some(sum));
    }
    let version = fixture.machine.shard().version();
    let failed = |failure| WriteOutcome::Failed(failure);
    assert_eq!(add_float(&mut fixture, "abc"), failed(CommandFailure::NotAFloat));
    assert_eq!(add_float(&mut fixture, "nan"), failed(CommandFailure::NotAFloat));
    assert_eq!(add_float(&mut fixture, "inf"), failed(CommandFailure::NotFinite));
    assert_eq!(add_float(&mut fixture, "-Infinity"), failed(CommandFailure::NotFinite));
    fixture.set("k", "1 ", Expiry::Never);
    assert_eq!(add_float(&mut fixture, "1"), failed(CommandFailure::NotAFloat));
    assert_eq!(fixture.machine.shard().version(), version + 1, "failures change nothing");
}

#[test]
fn a_sum_beyond_the_range_is_a_failure() {
    let mut fixture = Fixture::new();
    let huge = "9e4931";
    assert!(matches!(add_float(&mut fixture, huge), WriteOutcome::Float(_)));
    let failed = WriteOutcome::Failed(CommandFailure::NotFinite);
    assert_eq!(add_float(&mut fixture, huge), failed);
}
