//! The encoding of messages: what goes in comes out, shared and not copied; what is damaged is
//! refused without a panic.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_raft::{AppendOutcome, DecodeError, Entry, Index, Message, Position, Round, Term};
use proptest::prelude::*;

fn term() -> impl Strategy<Value = Term> {
    prop_oneof![0u64..10, Just(Term::MAX.0)].prop_map(Term)
}

fn index() -> impl Strategy<Value = Index> {
    prop_oneof![0u64..1000, Just(Index::MAX.0 - 16)].prop_map(Index)
}

fn position() -> impl Strategy<Value = Position> {
    (index(), term()).prop_map(|(index, term)| Position { index, term })
}

fn append() -> impl Strategy<Value = Message> {
    let payloads = prop::collection::vec((term(), prop::collection::vec(any::<u8>(), 0..40)), 0..8);
    (term(), position(), index(), payloads).prop_map(|(term, prev, commit, payloads)| {
        let entries = payloads.into_iter().enumerate().map(|(at, (term, payload))| Entry {
            index: Index(prev.index.0 + 1 + at as u64),
            term,
            payload: payload.into(),
        });
        Message::Append { term, prev, commit, entries: entries.collect() }
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        (term(), any::<bool>(), any::<bool>(), position()).prop_map(
            |(term, pre, transfer, last)| Message::RequestVote { term, pre, transfer, last }
        ),
        (term(), any::<bool>(), any::<bool>()).prop_map(|(term, pre, granted)| Message::Vote {
            term,
            pre,
            granted
        }),
        append(),
        (term(), index()).prop_map(|(term, matched)| Message::AppendReply {
            term,
            outcome: AppendOutcome::Accepted { matched },
        }),
        (term(), index(), position(), index()).prop_map(|(term, prev, hint, first)| {
            Message::AppendReply { term, outcome: AppendOutcome::Rejected { prev, hint, first } }
        }),
        (term(), index(), any::<u64>(), any::<u64>()).prop_map(
            |(term, commit, round, answered)| {
                let (round, answered) = (Round(round), Round(answered));
                Message::Heartbeat { term, commit, round, answered }
            }
        ),
        (term(), any::<u64>(), index(), index(), any::<(bool, bool, u64)>()).prop_map(
            |(term, round, matched, received, (wants_snapshot, may_lead, promise))| {
                Message::HeartbeatReply {
                    term,
                    round: Round(round),
                    matched,
                    received,
                    wants_snapshot,
                    may_lead,
                    promise: Duration::from_nanos(promise),
                }
            }
        ),
        term().prop_map(|term| Message::TimeoutNow { term }),
    ]
}

fn encode(message: &Message) -> Bytes {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer);
    buffer.freeze()
}

proptest! {
    #[test]
    fn every_message_survives_its_encoding(message in message()) {
        let bytes = encode(&message);
        prop_assert_eq!(bytes.len(), message.encoded_len());
        prop_assert_eq!(Message::decode(bytes).unwrap(), message);
    }

    #[test]
    fn every_cut_is_an_error(message in message(), cut in any::<prop::sample::Index>()) {
        let bytes = encode(&message);
        let cut = cut.index(bytes.len());
        prop_assert!(Message::decode(bytes.slice(..cut)).is_err());
    }

    #[test]
    fn bytes_that_follow_are_an_error(message in message(), tail in 1usize..9) {
        let mut bytes = BytesMut::from(&encode(&message)[..]);
        bytes.resize(bytes.len() + tail, 0);
        let trailing = matches!(
            Message::decode(bytes.freeze()),
            Err(DecodeError::Trailing { bytes }) if bytes == tail
        );
        prop_assert!(trailing);
    }

    #[test]
    fn damage_never_panics(
        message in message(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut bytes = encode(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = Message::decode(bytes.into());
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::decode(bytes.into());
    }
}

#[test]
fn payloads_are_slices_of_what_was_received() {
    let entry = Entry { index: Index(1), term: Term(1), payload: Bytes::from_static(b"payload") };
    let message = Message::Append {
        term: Term(1),
        prev: Position::default(),
        commit: Index(0),
        entries: vec![entry],
    };
    let bytes = encode(&message);
    let whole = bytes.as_ptr_range();
    let Message::Append { entries, .. } = Message::decode(bytes).unwrap() else { unreachable!() };
    assert!(whole.contains(&entries[0].payload.as_ptr()));
}

/// The layout is a promise to other versions: a change shows here.
#[test]
fn layout() {
    let message = Message::Append {
        term: Term(2),
        prev: Position::new(4, 1),
        commit: Index(3),
        entries: vec![Entry { index: Index(5), term: Term(2), payload: Bytes::from_static(b"ab") }],
    };
    let mut expected = vec![3, 2, 0, 0, 0, 0, 0, 0, 0];
    for number in [4u64, 1, 3] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(1u32.to_le_bytes());
    expected.extend(2u64.to_le_bytes());
    expected.extend(2u32.to_le_bytes());
    expected.extend(b"ab");
    assert_eq!(encode(&message), expected);
}

#[test]
fn layout_of_the_small_ones() {
    let numbers = |kind: u8, numbers: &[u64]| {
        let mut bytes = vec![kind];
        numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
        bytes
    };
    let (term, last) = (Term(2), Position::new(4, 1));
    let request = Message::RequestVote { term, pre: false, transfer: true, last };
    let mut expected = numbers(1, &[2]);
    expected.extend([0, 1]);
    expected.extend(&numbers(0, &[4, 1])[1..]);
    assert_eq!(encode(&request), expected);
    let heartbeat =
        Message::Heartbeat { term, commit: Index(7), round: Round(0), answered: Round(9) };
    assert_eq!(encode(&heartbeat), numbers(5, &[2, 7, 0, 9]));
    let (matched, received) = (Index(5), Index(6));
    let reply = Message::HeartbeatReply {
        term,
        round: Round(3),
        matched,
        received,
        wants_snapshot: true,
        may_lead: false,
        promise: Duration::from_nanos(300),
    };
    let mut expected = numbers(6, &[2, 3, 5, 6]);
    expected.extend([1, 0]);
    expected.extend(&numbers(0, &[300])[1..]);
    assert_eq!(encode(&reply), expected);
    assert_eq!(encode(&Message::TimeoutNow { term }), numbers(7, &[2]));
}

/// A count that promises more entries than there are bytes is refused before memory is reserved.
#[test]
fn a_boastful_count_is_refused() {
    let message = Message::Append {
        term: Term(1),
        prev: Position::default(),
        commit: Index(0),
        entries: Vec::new(),
    };
    let mut bytes = encode(&message).to_vec();
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        Message::decode(bytes.into()),
        Err(DecodeError::Truncated { what: "entries", .. })
    ));
}

#[test]
fn urgent_is_everything_small() {
    let append = |entries| Message::Append {
        term: Term(1),
        prev: Position::default(),
        commit: Index(0),
        entries,
    };
    let entry = Entry { index: Index(1), term: Term(1), payload: Bytes::new() };
    assert!(append(vec![]).is_urgent());
    assert!(!append(vec![entry]).is_urgent());
    let (term, round, answered) = (Term(1), Round(1), Round(0));
    let heartbeat = Message::Heartbeat { term, commit: Index(0), round, answered };
    assert!(heartbeat.is_urgent());
    assert!(Message::TimeoutNow { term: Term(1) }.is_urgent());
    let outcome = AppendOutcome::Accepted { matched: Index(1) };
    assert!(!Message::AppendReply { term: Term(1), outcome }.is_urgent());
}
