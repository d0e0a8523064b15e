//! OCI images: names, registries and archives, and the way of layers between a tar and the store.
//!
//! Data goes one way: a registry ([`registry::Client`]) or an archive gives blobs, [`unpack`] makes each layer a
//! directory of the store in overlay format, and the image gets its names when all of it is on disk. Nothing here
//! mounts, runs or prints; nothing reads the environment.
//!
//! And back: a container's changes become a layer ([`commit`], by [`pack`] and [`capture`]), images become archives
//! ([`save`]).
//!
//! Start at the verbs, [`pull`], [`load`] and [`import`], and their shared end, [`install`]; then at [`reference`]
//! for names, [`manifest`] and [`config`] for the documents, [`auth`] for logins. What other tools do differently,
//! and what is done here, is in `docs/images.md`.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod archive;
pub mod auth;
mod board;
mod bring;
pub mod capture;
pub mod change;
pub mod changes;
pub mod commit;
mod compose;
pub mod compression;
pub mod config;
pub mod extract;
pub mod import;
pub mod install;
pub mod layer_tar;
mod layers;
pub mod load;
mod load_docker;
mod load_oci;
pub mod manifest;
pub mod media;
pub mod pack;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
pub mod record;
pub mod reference;
pub mod refetch;
pub mod registry;
pub mod save;
pub mod squash;
pub mod stored;
pub mod tar;
mod text;
pub mod unpack;
pub mod verify;
mod whole;

pub use bring::BlobSource;
