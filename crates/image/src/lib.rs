//! OCI images: names, registries and archives, and the way of layers between a tar and the store.
//!
//! Data goes one way: [`registry`] or an archive gives blobs, [`compression`] and [`tar`] read them, and a layer
//! becomes a directory of the store. Nothing here mounts, runs or prints; nothing reads the environment.
//!
//! Start at [`reference`] for names, [`manifest`] and [`config`] for the documents, [`registry::Client`] and
//! [`auth`] for where they come from.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod auth;
pub mod compression;
pub mod config;
pub mod manifest;
pub mod media;
pub mod platform;
pub mod progress;
pub mod record;
pub mod reference;
pub mod registry;
pub mod tar;
mod text;
pub mod unpack;
