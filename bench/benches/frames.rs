//! Frames between nodes: many small messages of many groups, and appends with entries, encoded into
//! one buffer and decoded again.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_router::peer::PeerMessage;
use flotilla_router::peer::frame::{Assembly, Cut, Parsed, decode_frame, encode_frame, parse};
use flotilla_shard::raft::{Entry, Index, Message, Position, ReplicaId, Round, Term};
use flotilla_shard::{GroupId, GroupMessage};

const MESSAGES: u64 = 256;
const VALUE_BYTES: usize = 256;
const FRAME_BYTES_MAX: usize = 16 << 20;

fn message(group: u64, message: Message) -> PeerMessage {
    let (from, to) = (ReplicaId(1), ReplicaId(2));
    PeerMessage::Raft(GroupMessage { group: GroupId(group), from, to, message })
}

fn heartbeats() -> VecDeque<PeerMessage> {
    let heartbeat = |group| {
        let (term, commit) = (Term(3), Index(1_000 + group));
        message(group, Message::Heartbeat { term, commit, round: Round(9), answered: Round(8) })
    };
    (1..=MESSAGES).map(heartbeat).collect()
}

fn appends() -> VecDeque<PeerMessage> {
    let payload = Bytes::from(vec![7; VALUE_BYTES]);
    let append = |group| {
        let (term, prev) = (Term(3), Position::new(1_000, 3));
        let entries = vec![Entry { index: Index(1_001), term, payload: payload.clone() }];
        message(group, Message::Append { term, prev, commit: Index(1_000), entries })
    };
    (1..=MESSAGES).map(append).collect()
}

fn encoded(mut messages: VecDeque<PeerMessage>) -> BytesMut {
    let mut buffer = BytesMut::new();
    let cut = Cut { target_bytes: FRAME_BYTES_MAX, frame_bytes_max: FRAME_BYTES_MAX };
    let encoded = encode_frame(&mut messages, cut, &mut buffer, |_| {});
    assert_eq!(encoded.messages as u64, MESSAGES);
    buffer
}

fn decoded(mut buffer: BytesMut) -> Vec<PeerMessage> {
    let mut out = Vec::with_capacity(MESSAGES as usize);
    let Ok(Parsed::Frame(frame)) = parse(&mut buffer, FRAME_BYTES_MAX) else {
        panic!("the buffer holds one frame");
    };
    let mut assembly = Assembly::new(FRAME_BYTES_MAX);
    decode_frame(frame, &mut assembly, &mut out).expect("it was just encoded");
    out
}

fn frames(criterion: &mut Criterion) {
    for (name, messages) in [("heartbeats", heartbeats()), ("appends", appends())] {
        let frame = encoded(messages.clone());
        assert_eq!(VecDeque::from(decoded(frame.clone())), messages);
        let mut benchmarks = criterion.benchmark_group(format!("frame of {MESSAGES} {name}"));
        benchmarks.throughput(Throughput::Elements(MESSAGES));
        benchmarks.bench_function("encode", |bencher| {
            bencher.iter_batched(|| messages.clone(), encoded, BatchSize::SmallInput);
        });
        benchmarks.bench_function("decode", |bencher| {
            bencher.iter_batched(|| frame.clone(), decoded, BatchSize::SmallInput);
        });
        benchmarks.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = frames
}
criterion_main!(benches);
