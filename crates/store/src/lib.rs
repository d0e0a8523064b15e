//! Everything that persists: blobs by digest, unpacked layers, snapshots, images, containers, volumes.
//!
//! What it is: directories and files, and one SQLite database that says what they are. Any number of processes use
//! one store at once; any of them may be killed at any moment. A thing becomes visible in the database only once it
//! is durable on disk, and leaves the disk only once it has left the database. What lies between the two belongs to
//! the process that holds its lock, or to the collector. `docs/format/store.md` tells the format and what each crash
//! leaves.
//!
//! What it never does: mount (it answers [`mount::Mount`] values), run, fetch, unpack, know an archive or a registry;
//! print; read the environment.
//!
//! The way in, for an image: [`Store::lease`], then blobs by [`Store::ingest`] and [`Store::arrived`], layers by
//! [`Store::new_layer`] and [`Store::commit_layers`], which syncs all of it at once, both or either skipped for what
//! [`Store::hold_blob`] and [`Store::hold_layer`] find there already; then [`Store::put_image`] and [`Store::release`]. For a container:
//! [`Store::create_container`], mount what it answers, run, [`Store::remove_container`]. [`Store::collect`] frees
//! what nobody needs.
//!
//! Start reading at [`Store`] in `open.rs`, then `own.rs` for how crashes are survived, then `snapshot.rs`.

mod adopt;
mod alone;
mod arrive;
mod beside;
mod blob;
mod clones;
mod collect;
mod container;
mod db;
mod digest;
mod disk;
mod draft;
mod error;
mod flaw;
mod follow;
mod format;
mod fsck;
mod image;
mod ingest;
mod layer;
mod layout;
mod lease;
mod mountpoints;
mod note;
mod open;
mod own;
mod quota;
mod reserve;
mod retain;
mod root;
mod schema;
mod share;
mod snapshot;
mod snapshotter;
mod stack;
mod usage;
mod volume;

pub use adopt::REF;
pub use alone::Alone;
pub use beside::beside;
pub use blob::BlobError;
pub use clones::Clones;
pub use collect::{Collected, GRACE};
pub use container::{Container, ContainerError, NewContainer};
pub use db::LOCK_TIMEOUT;
pub use digest::{Descriptor, Digest, DigestError, Hasher};
pub use disk::{BlobDisk, Disk, LayerDisk, ManifestDisk, SnapshotDisk, VolumeDisk};
pub use error::{Fault, lacking};
pub use flaw::{Flaw, Standing};
pub use follow::Follow;
pub use format::Format;
pub use fsck::Wrong;
pub use image::{Image, ImageError, ImageLayer, ImageRecord, Put, Removed};
pub use ingest::{Ingest, IngestError};
pub use layer::{Layer, LayerMeta, NewLayer};
pub use lease::Lease;
pub use note::Note;
pub use open::{OpenError, Store};
pub use quota::Quota;
pub use schema::VERSION;
pub use share::{Counts, Holder, Sharers, Stack, StackDir};
pub use snapshot::{CommitOptions, Info, Kind, Labels, MAX_LABEL, PrepareOptions, SnapshotError};
pub use usage::Usage;
pub use volume::{Filling, NewVolume, Volume, VolumeError};
