//! A registry's client: manifests and blobs by the OCI distribution protocol, over blocking HTTP.
//!
//! Start at [`Client`]. It logs in when it is asked to ([`crate::auth`]), keeps the tokens it gets, sends no
//! credential to another host, and verifies whatever has a digest. It reads no environment: proxies, certificates
//! and the places of credentials are given to it.

mod challenge;
mod client;
mod error;
mod http;
mod proxy;
mod token;
mod url;

pub use client::{Client, ClientOptions, FetchedManifest};
pub use error::RegistryError;
pub use http::HttpOptions;
pub use proxy::Proxies;

/// The host that serves a domain of image names.
pub(crate) fn host_of(domain: &str) -> &str {
    match domain {
        crate::reference::DEFAULT_DOMAIN => "registry-1.docker.io",
        other => other,
    }
}
