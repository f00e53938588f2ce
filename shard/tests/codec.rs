//! Everything that travels comes back as it was sent, and hostile bytes never panic.

use bytes::{Bytes, BytesMut};
use flotilla_shard::codec::{Reader, Writer};
use flotilla_shard::command::Change;
use flotilla_shard::request::{decode_result, encode_result};
use flotilla_shard::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::time::Duration;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn range() -> impl Strategy<Value = KeyRange> {
    (bytes(), option::of(bytes())).prop_map(|(start, end)| match end {
        Some(end) if end < start => KeyRange { start: end, end: Some(start) },
        end => KeyRange { start, end },
    })
}

fn expiry() -> impl Strategy<Value = Expiry> {
    prop_oneof![
        Just(Expiry::Keep),
        Just(Expiry::Never),
        any::<u64>().prop_map(Expiry::At),
        any::<u64>().prop_map(Expiry::After)
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let step = prop_oneof![
        simple_write().prop_map(Step::Write),
        bytes().prop_map(|key| Step::Get { key })
    ];
    let guard = (bytes(), any::<u64>()).prop_map(|(key, version)| Guard { key, version });
    prop_oneof![
        4 => simple_write(),
        1 => range().prop_map(|range| Write::DeleteRange { range }),
        1 => (vec(guard, 0..3), vec(step, 0..5))
            .prop_map(|(guards, steps)| Write::Atomic { guards, steps }),
    ]
}

fn simple_write() -> impl Strategy<Value = Write> {
    prop_oneof![old_write(), new_write()]
}

fn new_write() -> impl Strategy<Value = Write> {
    let condition = prop_oneof![
        Just(ExpireCondition::Always),
        Just(ExpireCondition::IfNone),
        Just(ExpireCondition::IfSome),
        Just(ExpireCondition::IfGreater),
        Just(ExpireCondition::IfLess),
        Just(ExpireCondition::IfSomeAndLess),
    ];
    prop_oneof![
        (bytes(), bytes()).prop_map(|(key, delta)| Write::AddFloat { key, delta }),
        (bytes(), any::<u64>(), bytes()).prop_map(|(key, offset, value)| Write::SetRange {
            key,
            offset,
            value
        }),
        (bytes(), expiry(), condition, any::<bool>()).prop_map(
            |(key, expiry, condition, return_value)| Write::Expire {
                key,
                expiry,
                condition,
                return_value
            }
        ),
        bytes().prop_map(|key| Write::Take { key }),
        (bytes(), bytes(), any::<bool>()).prop_map(|(from, to, only_if_absent)| Write::Rename {
            from,
            to,
            only_if_absent
        }),
        (bytes(), bytes(), any::<bool>()).prop_map(|(from, to, replace)| Write::Copy {
            from,
            to,
            replace
        }),
        vec(bytes(), 0..5).prop_map(|keys| Write::Reap { keys }),
    ]
}

/// Kinds that the first format had, with what was added to them.
fn old_write() -> impl Strategy<Value = Write> {
    let condition =
        prop_oneof![Just(Condition::Always), Just(Condition::IfAbsent), Just(Condition::IfPresent)];
    let expect = prop_oneof![
        Just(Expect::Absent),
        bytes().prop_map(Expect::Value),
        any::<u64>().prop_map(Expect::Version)
    ];
    let change = prop_oneof![
        (bytes(), bytes()).prop_map(|(key, value)| BatchChange::Put { key, value }),
        bytes().prop_map(|key| BatchChange::Delete { key })
    ];
    prop_oneof![
        (bytes(), bytes(), condition, any::<bool>(), expiry()).prop_map(
            |(key, value, condition, return_previous, expiry)| Write::Put {
                key,
                value,
                condition,
                return_previous,
                expiry
            }
        ),
        vec(bytes(), 0..5).prop_map(|keys| Write::Delete { keys }),
        (bytes(), expect, option::of(bytes()), expiry()).prop_map(|(key, expect, new, expiry)| {
            Write::CompareAndSwap { key, expect, new, expiry }
        }),
        (bytes(), any::<i64>()).prop_map(|(key, delta)| Write::Add { key, delta }),
        (bytes(), bytes()).prop_map(|(key, value)| Write::Append { key, value }),
        (vec(change, 0..5), any::<bool>())
            .prop_map(|(changes, if_all_absent)| Write::Batch { changes, if_all_absent }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        write().prop_map(Operation::Write),
        bytes().prop_map(|key| Operation::Get { key }),
        vec(bytes(), 0..5).prop_map(|keys| Operation::GetMany { keys }),
        (range(), any::<u32>(), any::<u64>(), any::<bool>(), any::<bool>()).prop_map(
            |(range, rows_max, bytes_max, reverse, keys_only)| Operation::Page {
                range,
                rows_max,
                bytes_max,
                reverse,
                keys_only
            }
        ),
        range().prop_map(|range| Operation::Count { range }),
    ]
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    (any::<u64>(), range(), any::<(u64, u64)>(), vec(any::<(u64, u64)>(), 0..4)).prop_map(
        |(group, range, (version, conf_version), replicas)| Descriptor {
            group: GroupId(group),
            range,
            epoch: Epoch { version, conf_version },
            replicas: replicas
                .into_iter()
                .map(|(node, replica)| ReplicaDescriptor {
                    node: NodeId(node),
                    replica: ReplicaId(replica),
                })
                .collect(),
        },
    )
}

fn present() -> impl Strategy<Value = Entry> {
    (bytes(), any::<u64>(), option::of(any::<u64>()))
        .prop_map(|(value, version, expires_at_ms)| Entry { value, version, expires_at_ms })
}

fn entry() -> impl Strategy<Value = Option<Entry>> {
    option::of(present())
}

fn outcome() -> impl Strategy<Value = WriteOutcome> {
    let step = prop_oneof![
        simple_outcome().prop_map(StepOutcome::Written),
        entry().prop_map(StepOutcome::Value)
    ];
    prop_oneof![
        4 => simple_outcome(),
        1 => (any::<u64>(), option::of(vec(step, 0..4)))
            .prop_map(|(version, outcomes)| WriteOutcome::Atomic { version, outcomes }),
    ]
}

fn simple_outcome() -> impl Strategy<Value = WriteOutcome> {
    let failure = prop_oneof![
        Just(CommandFailure::NotAnInteger),
        Just(CommandFailure::Overflow),
        Just(CommandFailure::TooLarge),
        Just(CommandFailure::OutOfRange),
        Just(CommandFailure::NotAFloat),
        Just(CommandFailure::NotFinite),
        Just(CommandFailure::NoSuchKey),
        Just(CommandFailure::Acknowledged),
        Just(CommandFailure::RowDamaged),
        any::<u64>().prop_map(|watermark_ms| CommandFailure::SessionExpired { watermark_ms }),
    ];
    prop_oneof![
        (any::<u64>(), any::<bool>(), entry()).prop_map(|(version, written, previous)| {
            WriteOutcome::Put { version, written, previous }
        }),
        any::<(u64, u64)>().prop_map(|(version, count)| WriteOutcome::Deleted { version, count }),
        (any::<u64>(), any::<bool>(), entry()).prop_map(|(version, swapped, current)| {
            WriteOutcome::Swap { version, swapped, current }
        }),
        any::<i64>().prop_map(WriteOutcome::Number),
        any::<u64>().prop_map(WriteOutcome::Length),
        any::<(u64, bool)>()
            .prop_map(|(version, written)| WriteOutcome::Batch { version, written }),
        any::<u64>().prop_map(|version| WriteOutcome::RangeDeleted { version }),
        failure.prop_map(WriteOutcome::Failed),
        bytes().prop_map(WriteOutcome::Float),
        (any::<u64>(), any::<bool>(), entry()).prop_map(|(version, changed, entry)| {
            WriteOutcome::Expired { version, changed, entry }
        }),
        entry().prop_map(WriteOutcome::Taken),
        any::<(u64, bool)>()
            .prop_map(|(version, renamed)| WriteOutcome::Renamed { version, renamed }),
        any::<(u64, bool)>().prop_map(|(version, copied)| WriteOutcome::Copied { version, copied }),
        any::<u64>().prop_map(|count| WriteOutcome::Reaped { count }),
    ]
}

fn result() -> impl Strategy<Value = Result<Answer, Refusal>> {
    let row = (bytes(), present());
    let answer = prop_oneof![
        outcome().prop_map(Answer::Written),
        entry().prop_map(Answer::Value),
        vec(entry(), 0..4).prop_map(Answer::Values),
        (vec(row, 0..4), option::of(range())).prop_map(|(rows, rest)| Answer::Page { rows, rest }),
        any::<u64>().prop_map(Answer::Count),
    ];
    let refusal = prop_oneof![
        option::of(any::<u64>())
            .prop_map(|leader| Refusal::NotLeader { leader: leader.map(NodeId) }),
        vec(descriptor(), 0..3).prop_map(|descriptors| Refusal::EpochMismatch { descriptors }),
        Just(Refusal::GroupNotFound),
        descriptor().prop_map(|descriptor| Refusal::OutOfRange { descriptor }),
        any::<u64>().prop_map(|nanos| Refusal::Busy { retry_after: Duration::from_nanos(nanos) }),
        any::<bool>().prop_map(|maybe_committed| Refusal::Timeout { maybe_committed }),
        any::<(u64, u64)>().prop_map(|(bytes, bytes_max)| Refusal::TooLarge { bytes, bytes_max }),
        ".*".prop_map(Refusal::Storage),
        ".*".prop_map(Refusal::Corrupt),
        Just(Refusal::Suspect),
        Just(Refusal::Shutdown),
    ];
    prop_oneof![answer.prop_map(Ok), refusal.prop_map(Err)]
}

fn encoded(encode: impl FnOnce(&mut Writer<'_>)) -> Bytes {
    let mut buffer = BytesMut::new();
    encode(&mut Writer::new(&mut buffer));
    buffer.freeze()
}

proptest! {
    #[test]
    fn operations_round_trip(operation in operation()) {
        let mut input = Reader::new(encoded(|out| operation.encode(out)));
        prop_assert_eq!(Operation::decode(&mut input).unwrap(), operation);
        input.finish().unwrap();
    }

    #[test]
    fn results_round_trip(result in result()) {
        let mut input = Reader::new(encoded(|out| encode_result(&result, out)));
        prop_assert_eq!(decode_result(&mut input).unwrap(), result);
        input.finish().unwrap();
    }

    #[test]
    fn commands_round_trip(write in write(), other in option::of(any::<u64>()), n in any::<u64>()) {
        let change = match other {
            Some(through) if through % 2 == 0 => Change::ReleaseLog { through },
            Some(ms) => Change::Ceiling { ms },
            None => Change::Write(write),
        };
        let origin = Origin {
            session: n,
            session_born_ms: n.rotate_left(7),
            sequence: n.rotate_left(13),
            lowest_unacknowledged: n.rotate_left(29),
        };
        let command = Command { origin, stamp_ms: n ^ 77, value_bytes_max: n ^ 99, change };
        prop_assert_eq!(Command::decode(command.encode()).unwrap(), command);
    }

    #[test]
    fn descriptors_round_trip(descriptor in descriptor()) {
        let mut input = Reader::new(descriptor.to_bytes());
        prop_assert_eq!(Descriptor::decode(&mut input).unwrap(), descriptor);
        input.finish().unwrap();
    }

    /// A flipped, cut or invented byte may be an error or another value, but never a panic.
    #[test]
    fn hostile_bytes_never_panic(junk in vec(any::<u8>(), 0..200), operation in operation(),
                                 at in any::<usize>(), flip in 1u8..) {
        let _ = Operation::decode(&mut Reader::new(Bytes::from(junk.clone())));
        let _ = decode_result(&mut Reader::new(Bytes::from(junk.clone())));
        let _ = Command::decode(Bytes::from(junk.clone()));
        let _ = Descriptor::decode(&mut Reader::new(Bytes::from(junk)));
        let mut bent = encoded(|out| operation.encode(out)).to_vec();
        let at = at % bent.len();
        bent[at] ^= flip;
        let _ = Operation::decode(&mut Reader::new(Bytes::from(bent.clone())));
        bent.truncate(at);
        let _ = Operation::decode(&mut Reader::new(Bytes::from(bent)));
    }
}

/// The smallest descriptor there can be, so that a count of them is not taken for a hostile one.
#[test]
fn the_smallest_descriptor_travels_in_a_refusal() {
    let smallest = Descriptor {
        group: GroupId(0),
        range: KeyRange { start: Bytes::new(), end: None },
        epoch: Epoch { version: 0, conf_version: 0 },
        replicas: Vec::new(),
    };
    let result = Err(Refusal::EpochMismatch { descriptors: vec![smallest; 3] });
    let mut buffer = BytesMut::new();
    encode_result(&result, &mut Writer::new(&mut buffer));
    assert_eq!(decode_result(&mut Reader::new(buffer.freeze())).unwrap(), result);
}
