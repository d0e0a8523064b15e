//! The store as a snapshotter of containerd's: `containerd.services.snapshots.v1.Snapshots`.
//!
//! containerd, and with it kubelet, Docker and nerdctl, asks a snapshotter for the root file systems of containers:
//! where to unpack a layer, what to mount for a container that stands on layers, what to forget. Most of the answer is
//! [`store::Store`]'s own (`crates/store/src/snapshot.rs` tells the story); here it is put into containerd's words.
//!
//! - [`wire`]: the messages, as containerd's `api/services/snapshots/v1/snapshots.proto` has them.
//! - [`service`]: each call, answered.
//! - `names`: whose a key is. containerd names a namespace with most calls, but collects garbage over all at once.
//! - `fuse`: overlays that are served by processes of ours, and bound by containerd: the other driver.
//! - `labels`: what labels ask for: id mappings, a size, layers that are here already.
//! - [`filter`]: containerd's grammar of filters.
//! - [`metrics`]: what is counted, as Prometheus reads it; [`page`]: where it reads it.
//! - [`socket`]: where clients connect.
//! - [`forgotten`]: what containerd does not know any more, asked of it.
//!
//! What it never does: mount (but by the driver in user space, where that is asked for), run, print, or know a command line. Nothing is kept here beside counts: the server may
//! be killed at any moment, and the next one goes on.
//!
//! Start reading at [`service`].

pub mod filter;
pub mod forgotten;
mod fuse;
mod labels;
pub mod metrics;
mod names;
pub mod page;
pub mod service;
pub mod socket;
pub mod wire;

pub use fuse::Fuse;
pub use grpc::{Limits, Server};
pub use service::{Options, PATIENCE, Snapshotter};
