//! Good inputs to begin with, made by the code that they are for.
//!
//! They lie in `seeds/`, below the target's name; the tests compare, and write them when they are
//! told to.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_router::peer::frame::{
    Cut, SignOfLife, encode_fragment, encode_frame, encode_sign_of_life,
};
use flotilla_router::peer::{ForwardedRequest, PeerMessage};
use flotilla_shard::raft::{AppendOutcome, Entry as LogEntry, Index, Position, Round, Term};
use flotilla_shard::snapshot::{AbortReason, DeclineReason, Offer, Summary, TransferId};
use flotilla_shard::{
    Answer, BatchChange, Consistency, Descriptor, Entry, Epoch, GroupId, GroupMessage, KeyRange,
    Message, NodeId, Operation, Origin, Refusal, ReplicaDescriptor, ReplicaId, SnapshotMessage,
    Write, WriteOutcome,
};

/// Target, name of the seed, bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// All of them.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    resp_requests(&mut seeds);
    peer_frames(&mut seeds);
    journal_recovery(&mut seeds);
    snapshot_chunks(&mut seeds);
    settings(&mut seeds);
    seeds
}

fn resp_requests(seeds: &mut Vec<Seed>) {
    let streams: [(&str, &[u8]); 10] = [
        ("pipeline", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\nbc\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n"),
        ("inline", b"PING\r\nSET a \"b \\x41\\n\" 'c\\''\n\r\n  GET  a \r\n"),
        ("mixed", b"*1\r\n$4\r\nPING\r\nECHO hi\r\n*0\r\n*-1\r\n*2\r\n$4\r\nECHO\r\n$0\r\n\r\n"),
        ("large-argument", b"*2\r\n$4\r\nECHO\r\n$40\r\n0123456789012345678901234567890123456789\r\nPING\r\n"),
        ("large-request", b"*4\r\n$30\r\n012345678901234567890123456789\r\n$30\r\n012345678901234567890123456789\r\n$30\r\n012345678901234567890123456789\r\n$30\r\n012345678901234567890123456789\r\nPING\r\n"),
        ("array-length", b"*12x\r\n"),
        ("bulk-length", b"*1\r\n$-1\r\n"),
        ("no-bulk", b"*1\r\n:5\r\n"),
        ("quotes", b"SET \"a\r\n"),
        ("cut", b"*2\r\n$3\r\nGET\r\n$100\r\nabc"),
    ];
    for (name, stream) in streams {
        for limits in 0..3u8 {
            let mut seed = vec![limits, 3, 1, 9, 2];
            seed.extend_from_slice(stream);
            seeds.push(("resp_requests", format!("{name}-{limits}"), seed));
        }
    }
}

fn transfer() -> TransferId {
    TransferId { boot: 3, number: 9 }
}

fn snapshot_messages() -> Vec<SnapshotMessage> {
    let (transfer, rows) = (transfer(), Bytes::from_static(b"rows"));
    vec![
        SnapshotMessage::Offer(Offer {
            transfer,
            group: GroupId(7),
            to: ReplicaId(2),
            term: Term(3),
            position: Position { index: Index(80), term: Term(2) },
            range: KeyRange::new("a", Some("m".into())),
            rows: 100,
            resumed: false,
        }),
        SnapshotMessage::Accept { transfer, from_chunk: 0 },
        SnapshotMessage::Decline {
            transfer,
            reason: DeclineReason::Busy,
            retry_after: Duration::from_secs(1),
        },
        SnapshotMessage::Chunk { transfer, number: 0, crc: crc32c::crc32c(&rows), rows },
        SnapshotMessage::ChunkDone { transfer, number: 0 },
        SnapshotMessage::End {
            transfer,
            summary: Summary {
                chunks: 1,
                rows: 1,
                digest: 77,
                version: 80,
                meta: Bytes::from_static(b"meta"),
            },
        },
        SnapshotMessage::Installed { transfer },
        SnapshotMessage::Abort { transfer, by_sender: true, reason: AbortReason::Cancelled },
    ]
}

fn raft_messages() -> Vec<Message> {
    let (term, last) = (Term(3), Position { index: Index(7), term: Term(2) });
    let entry = |index| LogEntry {
        index: Index(index),
        term,
        payload: Bytes::from(vec![b'p'; index as usize]),
    };
    vec![
        Message::RequestVote { term, pre: true, transfer: false, last },
        Message::Vote { term, pre: false, granted: true },
        Message::Append { term, prev: last, commit: Index(6), entries: vec![entry(8), entry(9)] },
        Message::AppendReply { term, outcome: AppendOutcome::Accepted { matched: Index(9) } },
        Message::AppendReply {
            term,
            outcome: AppendOutcome::Rejected { prev: Index(9), hint: last, first: Index(1) },
        },
        Message::Heartbeat { term, commit: Index(6), round: Round(4), answered: Round(3) },
        Message::HeartbeatReply {
            term,
            round: Round(4),
            matched: Index(7),
            received: Index(8),
            wants_snapshot: false,
            may_lead: true,
            promise: Duration::from_millis(300),
        },
        Message::TimeoutNow { term },
    ]
}

fn requests() -> Vec<PeerMessage> {
    let key = || Bytes::from_static(b"key");
    let operations = [
        Operation::Get { key: key() },
        Operation::GetMany { keys: vec![key(), key()] },
        Operation::Write(Write::Add { key: key(), delta: -5 }),
        Operation::Write(Write::Batch {
            changes: vec![BatchChange::Put { key: key(), value: key() }],
            if_all_absent: true,
        }),
        Operation::Page {
            range: KeyRange::new("a", None),
            rows_max: 10,
            bytes_max: 1000,
            reverse: true,
            keys_only: false,
        },
    ];
    let consistencies = [
        Consistency::Linearizable,
        Consistency::Local,
        Consistency::Stale { max_lag: Duration::from_millis(50) },
    ];
    let request = |(id, operation): (u64, Operation)| PeerMessage::Request {
        id,
        body: ForwardedRequest {
            group: GroupId(7),
            epoch: Epoch { version: 1, conf_version: 1 },
            operation,
            consistency: consistencies[id as usize % 3],
            origin: Origin { session: 4, sequence: 9, ..Origin::default() },
            timeout: Duration::from_secs(1),
        },
    };
    (0..).zip(operations).map(request).collect()
}

fn replies() -> Vec<PeerMessage> {
    let entry =
        || Entry { value: Bytes::from_static(b"value"), version: 5, expires_at_ms: Some(99) };
    let descriptor = Descriptor {
        group: GroupId(7),
        range: KeyRange::new("a", Some("m".into())),
        epoch: Epoch { version: 1, conf_version: 1 },
        replicas: vec![ReplicaDescriptor { node: NodeId(1), replica: ReplicaId(1) }],
    };
    let results = [
        Ok(Answer::Values(vec![Some(entry()), None])),
        Ok(Answer::Page { rows: vec![(Bytes::from_static(b"a"), entry())], rest: None }),
        Ok(Answer::Written(WriteOutcome::Batch { version: 5, written: true })),
        Err(Refusal::EpochMismatch { descriptors: vec![descriptor] }),
        Err(Refusal::Timeout { maybe_committed: true }),
        Err(Refusal::Storage("words".to_owned())),
    ];
    let reply = |(id, result)| PeerMessage::Reply { id, result };
    (0..).zip(results).map(reply).collect()
}

fn peer_frames(seeds: &mut Vec<Seed>) {
    let raft = |message| {
        let (from, to) = (ReplicaId(1), ReplicaId(2));
        PeerMessage::Raft(GroupMessage { group: GroupId(7), from, to, message })
    };
    let mut all: Vec<PeerMessage> = raft_messages().into_iter().map(raft).collect();
    all.extend(requests());
    all.extend(replies());
    all.extend(snapshot_messages().into_iter().map(PeerMessage::Snapshot));

    let frame = |messages: &[PeerMessage]| {
        let cut = Cut { target_bytes: 64 << 10, frame_bytes_max: 64 << 10 };
        let mut stream = BytesMut::new();
        let mut queue = VecDeque::from(messages.to_vec());
        encode_frame(&mut queue, cut, &mut stream, |_| {});
        assert!(queue.is_empty());
        stream
    };
    let mut add = |name: String, is_raw: bool, frames: &[BytesMut]| {
        let mut seed = vec![u8::from(!is_raw), 2, 5, 17];
        for frame in frames {
            if is_raw {
                seed.put_slice(frame);
            } else {
                seed.put_u16_le(frame.len() as u16 - 8);
                seed.put_slice(&frame[8..]);
            }
        }
        seeds.push(("peer_frames", name, seed));
    };
    for (at, message) in all.iter().enumerate() {
        add(format!("message-{at:02}"), false, &[frame(std::slice::from_ref(message))]);
    }
    add("many".to_owned(), false, &[frame(&all[..8]), frame(&all[8..])]);
    add("raw".to_owned(), true, &[frame(&all[..4]), frame(&all[4..6])]);
    let mut sign = BytesMut::new();
    encode_sign_of_life(&mut sign, SignOfLife { token: 7, wall_us: 1 << 50 });
    add("sign".to_owned(), false, &[sign.clone()]);
    add("sign-raw".to_owned(), true, &[sign]);
    let whole = frame(&all[2..3]);
    let pieces = [(&whole[12..30], false), (&whole[30..], true)].map(|(piece, is_last)| {
        let mut stream = BytesMut::new();
        encode_fragment(&mut stream, piece, is_last);
        stream
    });
    add("pieces".to_owned(), false, &pieces);
}

fn journal_recovery(seeds: &mut Vec<Seed>) {
    let mutations: [(&str, &[u8]); 12] = [
        ("sound", &[2]),
        ("nothing", &[0]),
        ("flip", &[2, 0, 0, 0x30, 0x10, 4]),
        ("flips", &[2, 0, 1, 0, 0, 1, 0, 1, 0, 0x10, 1, 0, 2, 0x90, 0x20, 1]),
        ("block", &[2, 1, 0, 2, 0xaa]),
        ("torn", &[2, 1, 3, 1, 0, 1, 3, 2, 0]),
        ("misdirected", &[2, 2, 0, 1, 3, 4]),
        ("short", &[2, 3, 2, 0, 0x41]),
        ("bytes", &[2, 4, 1, 0x10, 0, 4, 1, 2, 3, 4]),
        ("missing", &[2, 5, 1]),
        ("earlier", &[2, 6, 2, 1, 6, 1, 0, 7, 0, 1]),
        ("forged", &[2, 8, 1, 2, 6, 9, 0, 8, 0, 0, 4, 11, 1, 9, 1, 6]),
    ];
    for (name, mutations) in mutations {
        seeds.push(("journal_recovery", name.to_owned(), mutations.to_vec()));
    }
    for field in 0..14u8 {
        let seed = vec![2, 8, field, field, field, 8 + field % 4, 0];
        seeds.push(("journal_recovery", format!("field-{field:02}"), seed));
    }
    let mut file = vec![0];
    file.extend_from_slice(b"FLTJRNLH");
    file.resize(4097, 1);
    seeds.push(("journal_recovery", "file".to_owned(), file));
}

fn snapshot_chunks(seeds: &mut Vec<Seed>) {
    use crate::rows::{chunk, row};
    for (at, message) in snapshot_messages().iter().enumerate() {
        let mut bytes = BytesMut::from(&[0][..]);
        message.encode(&mut bytes);
        seeds.push(("snapshot_chunks", format!("message-{at}"), bytes.to_vec()));
    }
    let mut bytes = Vec::new();
    for (key, expires_at_ms) in [(b"a", None), (b"b", Some(9))] {
        let row = row::Row { version: 3, flags: 1, expires_at_ms, value: "value".into() };
        let mut stored = Vec::new();
        row::encode(key, &row, &mut stored);
        chunk::put_row(&mut bytes, key, &stored);
    }
    seeds.push(("snapshot_chunks", "chunk".to_owned(), [&[1][..], &bytes].concat()));
    // Range, then for each chunk its kind and number of rows; of each row the key's length, the key,
    // the value's length, the value, flags, version.
    let transfer = |range: u8, kind: u8, keys: [&[u8]; 3], lie: u8| {
        let mut seed = vec![2, range, kind, 2];
        let add_row = |seed: &mut Vec<u8>, key: &[u8]| {
            seed.push(key.len() as u8);
            seed.extend_from_slice(key);
            seed.extend_from_slice(&[3, 0, b'v', b'a', b'l', 1]);
            seed.extend_from_slice(&8u64.to_le_bytes());
        };
        add_row(&mut seed, keys[0]);
        add_row(&mut seed, keys[1]);
        if kind == 1 {
            seed.extend_from_slice(&[9, 0, 1]);
        }
        seed.extend_from_slice(&[2, 1]);
        add_row(&mut seed, keys[2]);
        // Chunks without rows until no step is left, then whether the end lies.
        for _ in 0..22 {
            seed.extend_from_slice(&[2, 0]);
        }
        seed.push(lie);
        seed
    };
    let seeds_of_transfers = [
        ("whole", transfer(0, 2, [b"a", b"b", b"c"], 0)),
        ("lies-rows", transfer(0, 2, [b"a", b"b", b"c"], 1)),
        ("lies-digest", transfer(0, 2, [b"a", b"b", b"c"], 2)),
        ("disorder", transfer(0, 2, [b"a", b"c", b"b"], 0)),
        ("twice", transfer(0, 2, [b"a", b"b", b"b"], 0)),
        ("outside", transfer(1, 2, [b"a", b"b", b"c"], 0)),
        ("inside", transfer(1, 2, [b"b", b"c", b"d"], 0)),
        ("damaged", transfer(0, 1, [b"a", b"b", b"c"], 0)),
        ("empty", vec![2, 0]),
    ];
    for (name, seed) in seeds_of_transfers {
        seeds.push(("snapshot_chunks", format!("transfer-{name}"), seed));
    }
}

fn settings(seeds: &mut Vec<Seed>) {
    let texts: [(&str, &str); 9] = [
        ("empty", ""),
        (
            "node",
            "cluster_name = \"c\"\nnode_id = 2\npeers = \"1=127.0.0.1:7101,2=127.0.0.1:7102\"\n\
            peer_addr = \"127.0.0.1:7102\"\nshards = 16\n",
        ),
        (
            "sections",
            "[raft]\nelection_timeout = \"500ms\"\nheartbeat_interval = \"50ms\"\n\
            reads = \"read_index\"\nclock_drift_max = 0.01\n[storage]\nmemtable_bytes = \"16MiB\"\n\
            checkpoint_age = \"1m 30s\"\n[limits]\nvalue_bytes_max = 1048576\n",
        ),
        ("splits", "split_at = [\"b\", \"m\\\\x00\", \"z\"]\nlog = \"warn,flotilla=debug\"\n"),
        ("splits-text", "split_at = \"b,m,z\"\ninsecure = true\nresp_addr = \"0.0.0.0:7001\"\n"),
        (
            "environment",
            "lanes = 2\n\0RAFT__READS=lease\nNODE_ID=1\nSERVICE_HOST=x\n\
            PEERS=1=127.0.0.1:1\nSPLIT_AT=b,c\n",
        ),
        ("flags", "\0\00=name\n1=3\n4=1s\n6=64MiB\n"),
        ("unknown", "lans = 2\n"),
        (
            "contradiction",
            "shards = 4\nsplit_at = [\"a\"]\nnode_id = 0\n[raft]\n\
            heartbeat_interval = \"1h\"\n",
        ),
    ];
    for (name, text) in texts {
        seeds.push(("settings", name.to_owned(), text.as_bytes().to_vec()));
    }
}
