//! For tests, benchmarks and soaks alone: what several of them would otherwise each write for themselves.
//!
//! [`layer`] makes the tar of a layer entry by entry, [`image`] makes images of such layers and writes them in
//! every form in which they come, [`registry`] starts Debian's `docker-registry`, [`scripted`] is an HTTP server
//! whose every answer a test writes, [`program`] starts `strata` on a store of its own and sees that nothing is left
//! behind, [`net`] gives a test a network of its own, [`soak`] does random things to it and kills it at random moments, [`disk`] is a file system of a test's own,
//! [`drive`] a drive whose power can be cut, [`wait`] waits for what happens by itself.
//! [`contract`] is what every driver of an overlay must do, case by case, the kernel's first; [`differential`] compares
//! one with a plain directory, operation by operation. Functions here panic rather than return errors: to a test both
//! are the same.
//!
//! Nothing that users install imports this crate.

pub mod containerd;
pub mod contract;
pub mod cri;
pub mod differential;
pub mod disk;
pub mod drive;
pub mod files;
pub mod image;
pub mod layer;
pub mod net;
pub mod program;
pub mod prompt;
pub mod random;
pub mod registry;
pub mod scripted;
pub mod snapshots;
pub mod snapshotter;
pub mod soak;
pub mod wait;

pub use disk::Disk;
pub use image::{Built, Compression, Image};
pub use layer::Layer;
pub use program::{Ended, Strata};
pub use wait::eventually;
