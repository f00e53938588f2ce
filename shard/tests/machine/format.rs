//! Bytes that older releases wrote still mean what they meant.

use crate::support::*;
use bytes::Bytes;
use flotilla_shard::command::{Change, Command};
use flotilla_shard::machine::ShardMeta;
use flotilla_shard::sessions::SessionTable;
use flotilla_shard::*;

/// The head of a command as the first release wrote it.
fn first_head() -> Vec<u8> {
    let mut bytes = vec![1];
    for number in [7u64, 8, 9, 3, 1000, 1 << 20] {
        bytes.extend(number.to_le_bytes());
    }
    bytes
}

fn field(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat()
}

fn decoded(body: &[&[u8]]) -> Command {
    let bytes = [&first_head()[..], &body.concat()].concat();
    Command::decode(Bytes::from(bytes)).expect("the first format")
}

#[test]
fn commands_of_the_first_format_decode() {
    let (k, v) = (field(b"k"), field(b"v"));
    let one = 1u32.to_le_bytes();
    let put = Write::Put {
        key: bytes("k"),
        value: bytes("v"),
        condition: Condition::IfAbsent,
        return_previous: true,
        expiry: Expiry::Never,
    };
    let swap = Write::CompareAndSwap {
        key: bytes("k"),
        expect: Expect::Version(5),
        new: Some(bytes("v")),
        expiry: Expiry::Never,
    };
    let batch = Write::Batch {
        changes: vec![
            BatchChange::Put { key: bytes("k"), value: bytes("v") },
            BatchChange::Delete { key: bytes("v") },
        ],
        if_all_absent: false,
    };
    let range = KeyRange { start: bytes("k"), end: Some(bytes("v")) };
    let cases: [(Vec<u8>, Write); 7] = [
        ([&[1, 1, 1], &k[..], &v].concat(), put),
        ([&[2][..], &one, &k].concat(), Write::Delete { keys: vec![bytes("k")] }),
        ([&[3][..], &k, &[2], &5u64.to_le_bytes(), &[1], &v].concat(), swap),
        (
            [&[4][..], &k, &(-2i64).to_le_bytes()].concat(),
            Write::Add { key: bytes("k"), delta: -2 },
        ),
        ([&[5][..], &k, &v].concat(), Write::Append { key: bytes("k"), value: bytes("v") }),
        ([&[6][..], &2u32.to_le_bytes(), &[1], &k, &v, &[2], &v].concat(), batch),
        ([&[7][..], &k, &[1], &v].concat(), Write::DeleteRange { range }),
    ];
    for (body, write) in cases {
        let command = decoded(&[&body]);
        assert_eq!(command.change, Change::Write(write.clone()));
        assert_eq!((command.stamp_ms, command.value_bytes_max), (1000, 1 << 20));
        // Today's bytes of such a write are the same after the head.
        let head_bytes = first_head().len();
        assert_eq!(&command.encode()[head_bytes..], &body[..], "{write:?}");
    }
    let release = decoded(&[&[128], &77u64.to_le_bytes()]);
    assert_eq!(release.change, Change::ReleaseLog { through: 77 });
}

/// Who applied such a command before did not look at its origin; whoever applies it again after a
/// restart must not either.
#[test]
fn origins_of_the_first_format_are_not_looked_at() {
    let command = decoded(&[&[4], &field(b"n"), &1i64.to_le_bytes()]);
    assert_eq!(command.origin, Origin::default());
    let mut fixture = Fixture::new();
    fixture.apply(&command);
    fixture.apply(&command);
    assert_eq!(fixture.text("n").as_deref(), Some("2"));
}

#[test]
fn a_command_of_a_later_format_is_not_guessed_at() {
    let mut bytes = first_head();
    bytes[0] = 3;
    bytes.extend([&[4][..], &field(b"n"), &1i64.to_le_bytes()].concat());
    assert!(Command::decode(Bytes::from(bytes)).is_err());
}

#[test]
fn a_record_of_the_first_format_decodes() {
    let descriptor = Fixture::new().machine.descriptor().clone();
    let numbers = [5u64.to_le_bytes(), 6u64.to_le_bytes()].concat();
    let bytes = [&[1][..], &numbers, &descriptor.to_bytes()].concat();
    let meta = ShardMeta::decode(Bytes::from(bytes)).expect("the first format");
    assert_eq!(meta, ShardMeta { stamp_ms: 5, released: 6, ..ShardMeta::new(descriptor) });
}

#[test]
fn the_bytes_of_a_record_are_fixed() {
    let mut fixture = Fixture::new();
    fixture.write_as(origin(0x55, 3, 2), Write::Add { key: bytes("n"), delta: 4 });
    fixture.set("k", "v", Expiry::After(9));
    fixture.ceiling(START_MS + 7);
    let meta = fixture.machine.meta();
    let descriptor = meta.descriptor.to_bytes();
    let mut expected = vec![2];
    let mut number = |value: u64| expected.extend(value.to_le_bytes());
    number(START_MS);
    number(0);
    expected.extend(&descriptor);
    let mut number = |value: u64| expected.extend(value.to_le_bytes());
    number(START_MS + 7);
    number(START_MS + 9);
    number(0); // the watermark
    expected.extend(1u32.to_le_bytes());
    let mut number = |value: u64| expected.extend(value.to_le_bytes());
    [0x55, START_MS, START_MS, 2].into_iter().for_each(&mut number);
    expected.extend(1u32.to_le_bytes());
    expected.extend(3u64.to_le_bytes());
    expected.push(4);
    expected.extend(4i64.to_le_bytes());
    assert_eq!(meta.encode(), expected);
}

/// Damage is an error, never a panic, and never a table that breaks its own rules.
#[test]
fn hostile_records_do_not_panic() {
    let mut fixture = Fixture::new();
    for sequence in 1..5 {
        fixture.write_as(origin(5, sequence, 1), Write::Add { key: bytes("n"), delta: 1 });
        fixture.write_as(origin(6, sequence, 1), Write::Take { key: bytes("n") });
    }
    let whole = fixture.machine.meta().encode();
    for length in 0..whole.len() {
        assert!(ShardMeta::decode(whole.slice(..length)).is_err(), "cut to {length}");
    }
    for at in 0..whole.len() {
        let mut bent = whole.to_vec();
        bent[at] ^= 0xff;
        let _ = ShardMeta::decode(Bytes::from(bent));
    }
}

/// A write that an atomic one must not hold is refused when decoded, at any depth.
#[test]
fn steps_do_not_nest() {
    let inner = Write::Atomic { guards: vec![], steps: vec![] };
    let range = Write::DeleteRange { range: KeyRange::whole() };
    for write in [inner, range] {
        let outer = Write::Atomic { guards: vec![], steps: vec![Step::Write(write)] };
        let command = Command {
            origin: Origin::default(),
            stamp_ms: 0,
            value_bytes_max: 0,
            change: Change::Write(outer),
        };
        assert!(Command::decode(command.encode()).is_err());
    }
}

#[test]
fn an_empty_table_is_small() {
    assert_eq!(SessionTable::default(), Fixture::new().machine.meta().sessions);
    assert!(Fixture::new().machine.meta().encode().len() < 128);
}
