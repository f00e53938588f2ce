//! The part of etcd's v3 messages that this harness sends and reads.
//!
//! Field numbers are those of etcd's published `rpc.proto` and `kv.proto`; fields that are left out
//! are skipped when they come, and have their defaults when they go. `bytes` fields share the
//! buffer that they came in.

use bytes::Bytes;
use prost::{Message, Oneof};

/// `etcdserverpb.RangeRequest`. Linearizable, because `serializable` is left at false.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    /// Empty: only `key`. One zero byte: all keys from `key` on.
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) range_end: Bytes,
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
}

/// `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) value: Bytes,
}

/// `etcdserverpb.RangeResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
}

/// `etcdserverpb.PutRequest`. Its response says nothing that is needed here.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// `etcdserverpb.DeleteRangeRequest` for one key.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DeleteRangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
}

/// `etcdserverpb.Compare`; `result` is left at EQUAL.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Compare {
    /// [`COMPARE_VERSION`] or [`COMPARE_VALUE`].
    #[prost(int32, tag = "2")]
    pub(super) target: i32,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) key: Bytes,
    #[prost(oneof = "CompareWith", tags = "4, 7")]
    pub(super) with: Option<CompareWith>,
}

/// How often a key was written since it was made; 0 if it does not exist.
pub(super) const COMPARE_VERSION: i32 = 0;

/// What a key holds.
pub(super) const COMPARE_VALUE: i32 = 3;

/// What a [`Compare`] compares with.
#[derive(Clone, PartialEq, Oneof)]
pub(super) enum CompareWith {
    #[prost(int64, tag = "4")]
    Version(i64),
    #[prost(bytes = "bytes", tag = "7")]
    Value(Bytes),
}

/// `etcdserverpb.RequestOp`: only puts.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RequestOp {
    #[prost(message, optional, tag = "2")]
    pub(super) put: Option<PutRequest>,
}

/// `etcdserverpb.TxnRequest`: if all comparisons hold, do all of `success`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
}

/// `etcdserverpb.TxnResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TxnResponse {
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusRequest {}

/// `etcdserverpb.StatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "2")]
    pub(super) version: String,
    /// The member that leads; 0 if there is none.
    #[prost(uint64, tag = "4")]
    pub(super) leader: u64,
}
