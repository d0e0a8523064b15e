//! gRPC over unix sockets, without an async runtime: what containerd and kubelet speak to their plug-ins.
//!
//! What it is: HTTP/2 ([RFC 9113](https://www.rfc-editor.org/rfc/rfc9113)) with HPACK
//! ([RFC 7541](https://www.rfc-editor.org/rfc/rfc7541)) as far as
//! [gRPC](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md) uses them, on plain sockets and threads. A
//! call has one message that asks, and any number that answer; messages are bytes here, and whoever calls knows how
//! they are spelled.
//!
//! Why it is our own: what there is in Rust stands on tokio, and brings forty crates, a megabyte and a half of program
//! that every start of a container would map, and functions that must not block where the store's all do. What is
//! left out is what gRPC over a unix socket never has: TLS, compression, push, priorities, HTTP/1.
//!
//! What is bounded: connections, calls at once on each and in all, bytes of a call and of those that have not come whole,
//! and the time of each from its headers on, whatever the service does meanwhile ([`Limits`]). A call that waits for its
//! turn too long, or whose service does, or whose client, is answered; no client waits for ever, nor for another one.
//!
//! What it never does: print, read the environment, know a service.
//!
//! Start reading at [`Service`], then `server/connection.rs`.

mod client;
mod frame;
mod headers;
mod hpack;
mod message;
mod server;
mod status;

pub use client::{Client, ClientError};
pub use server::{Call, Ended, Gone, Lane, Limits, Reply, Server, Service};
pub use status::{Code, Status};
