//! The messages of containerd's snapshots service, of `google.protobuf` what they hold, and of gRPC's health service.
//!
//! Written by hand from the `.proto` files, since those that there are need a compiler to be built from: names, numbers
//! and types are theirs. A field that is not here is passed over, as protobuf has it.

use std::collections::BTreeMap;

/// Path of a method.
pub const SERVICE: &str = "/containerd.services.snapshots.v1.Snapshots/";

/// Path of the method by which a server is asked for its health.
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The header that names a namespace.
pub const NAMESPACE: &str = "containerd-namespace";

/// Labels, as the wire has them.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
#[allow(missing_docs)]
pub enum Kind {
    Unknown = 0,
    View = 1,
    Active = 2,
    Committed = 3,
}

/// A mount (`containerd.types.Mount`).
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Mount {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub source: String,
    #[prost(string, tag = "3")]
    pub target: String,
    #[prost(string, repeated, tag = "4")]
    pub options: Vec<String>,
}

/// `PrepareSnapshotRequest`; `ViewSnapshotRequest` is the same.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct PrepareRequest {
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    #[prost(string, tag = "2")]
    pub key: String,
    #[prost(string, tag = "3")]
    pub parent: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: Labels,
}

/// `PrepareSnapshotResponse`, `ViewSnapshotResponse` and `MountsResponse`, which are the same.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct MountsResponse {
    #[prost(message, repeated, tag = "1")]
    pub mounts: Vec<Mount>,
}

/// What names a snapshot alone: `MountsRequest`, `RemoveSnapshotRequest`, `StatSnapshotRequest`, `UsageRequest`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct KeyRequest {
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    #[prost(string, tag = "2")]
    pub key: String,
}

/// `CommitSnapshotRequest`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct CommitRequest {
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub key: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub labels: Labels,
    /// Known to containerd from 2.2 on.
    #[prost(string, tag = "5")]
    pub parent: String,
}

/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Timestamp {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// `google.protobuf.FieldMask`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct FieldMask {
    #[prost(string, repeated, tag = "1")]
    pub paths: Vec<String>,
}

/// `google.protobuf.Empty`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

/// What is known of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct Info {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub parent: String,
    #[prost(enumeration = "Kind", tag = "3")]
    pub kind: i32,
    #[prost(message, optional, tag = "4")]
    pub created_at: Option<Timestamp>,
    #[prost(message, optional, tag = "5")]
    pub updated_at: Option<Timestamp>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub labels: Labels,
}

/// `StatSnapshotResponse` and `UpdateSnapshotResponse`, which are the same.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct InfoResponse {
    #[prost(message, optional, tag = "1")]
    pub info: Option<Info>,
}

/// `UpdateSnapshotRequest`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct UpdateRequest {
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    #[prost(message, optional, tag = "2")]
    pub info: Option<Info>,
    #[prost(message, optional, tag = "3")]
    pub update_mask: Option<FieldMask>,
}

/// `ListSnapshotsRequest`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct ListRequest {
    #[prost(string, tag = "1")]
    pub snapshotter: String,
    #[prost(string, repeated, tag = "2")]
    pub filters: Vec<String>,
}

/// `ListSnapshotsResponse`, of which a listing has many.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct ListResponse {
    #[prost(message, repeated, tag = "1")]
    pub info: Vec<Info>,
}

/// `UsageResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct UsageResponse {
    #[prost(int64, tag = "1")]
    pub size: i64,
    #[prost(int64, tag = "2")]
    pub inodes: i64,
}

/// `CleanupRequest`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct CleanupRequest {
    #[prost(string, tag = "1")]
    pub snapshotter: String,
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct HealthRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is serving, 2 is not.
#[derive(Clone, Copy, PartialEq, prost::Message)]
#[allow(missing_docs)]
pub struct HealthResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn bytes_are_those_of_protobuf() {
        let commit = CommitRequest {
            snapshotter: "s".into(),
            name: "n".into(),
            key: "k".into(),
            labels: Labels::from([("a".into(), "b".into())]),
            parent: "p".into(),
        };
        let bytes = b"\x0a\x01s\x12\x01n\x1a\x01k\x22\x06\x0a\x01a\x12\x01b\x2a\x01p";
        assert_eq!(commit.encode_to_vec(), bytes);
        let info = Info {
            name: "n".into(),
            kind: Kind::Committed as i32,
            created_at: Some(Timestamp { seconds: 1, nanos: 2 }),
            ..Info::default()
        };
        assert_eq!(info.encode_to_vec(), b"\x0a\x01n\x18\x03\x22\x04\x08\x01\x10\x02");
        // What a later containerd adds is passed over.
        let more = [&bytes[..], b"\x32\x03new\x38\x05"].concat();
        assert_eq!(CommitRequest::decode(&more[..]).unwrap(), commit);
    }
}
