//! A registry's client: manifests and blobs by the OCI distribution protocol, over blocking HTTP.
//!
//! Start at [`Client`]. It logs in when it is asked to ([`crate::auth`]), keeps the tokens it gets, sends no
//! credential to another host, and verifies whatever has a digest. It reads no environment: proxies, certificates
//! and the places of credentials are given to it, and the directories of `hosts.toml` files, which name mirrors.

mod agent;
mod blob;
mod challenge;
mod client;
mod error;
mod hosts;
mod http;
mod mirrors;
mod pieces;
mod proxy;
mod ranges;
mod raw;
mod token;
mod upload;
mod url;

use crate::reference::DEFAULT_DOMAIN;

pub use challenge::schemes;
pub use client::{Client, ClientOptions, FetchedManifest};
pub use error::RegistryError;
pub use hosts::addresses;
pub use http::{HttpOptions, explained};
pub use pieces::Kept;
pub use proxy::Proxies;
pub use ranges::Ranges;
pub use raw::Referrer;
pub use token::token_in;
pub use upload::{Open, Uploaded};

/// What serves the names of [`DEFAULT_DOMAIN`].
const DEFAULT_HOST: &str = "registry-1.docker.io";

/// The host that serves a domain of image names.
pub(crate) fn host_of(domain: &str) -> &str {
    if domain == DEFAULT_DOMAIN {
        DEFAULT_HOST
    } else {
        domain
    }
}

/// The domain of image names that a host serves.
pub(crate) fn domain_of(host: &str) -> &str {
    if host == DEFAULT_HOST {
        DEFAULT_DOMAIN
    } else {
        host
    }
}
