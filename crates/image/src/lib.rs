//! image
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod compression;
pub mod tar;
