//! Documents as they are, whatever they are; and what refers to an image.

use std::io;

use serde::Deserialize;
use store::{Descriptor, Digest};
use ureq::http::{Method, header};

use super::client::{Call, Client, version};
use super::error::RegistryError;
use super::host_of;
use super::mirrors::Turn;
use super::url::encode;
use crate::config::nullable;
use crate::manifest::MAX_MANIFEST;
use crate::media;
use crate::progress::Progress;
use crate::reference::Reference;

/// Pages of a list that are read.
const MAX_PAGES: usize = 100;

/// Something that refers to an image: a signature, a list of what is in it, and the like (distribution-spec, "Listing
/// Referrers").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Its manifest.
    pub descriptor: Descriptor,
    /// What it is.
    pub artifact_type: String,
    /// What it says of itself.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Client {
    /// The bytes of a manifest or an index, and the media type that they came with, without a look at what they say;
    /// with a digest they are compared with it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn raw_manifest(
        &self,
        reference: &Reference,
        digest: Option<&Digest>,
        progress: &dyn Progress,
    ) -> Result<(Vec<u8>, String), RegistryError> {
        let wanted = digest.or(reference.digest()).copied();
        let what = match digest {
            None => format!("image {reference}"),
            Some(digest) => format!("manifest {digest} of {reference}"),
        };
        let path = format!("manifests/{}", version(reference, wanted));
        let accept = format!("{}, */*", media::ACCEPT_MANIFESTS);
        // Mirrors need not have all that an index leads to: the registry itself is asked.
        let own = self.own_endpoint(reference.domain())?;
        let turn = Turn {
            via: &own,
            last: true,
        };
        let mut tries = 0;
        loop {
            let call = Call {
                what: &what,
                from: reference,
                to: &turn,
                method: Method::GET,
                path: &path,
                headers: vec![(header::ACCEPT, accept.clone())],
            };
            let answer = self.ask(call, progress)?;
            let host = answer.url.authority.clone();
            let media_type = answer.header(header::CONTENT_TYPE).unwrap_or_default().to_owned();
            let bytes =
                answer
                    .bytes(MAX_MANIFEST)
                    .and_then(|bytes| match bytes.len() as u64 > MAX_MANIFEST {
                        true => Err(io::Error::other("it is larger than a manifest can be")),
                        false => Ok(bytes),
                    });
            match bytes {
                Ok(bytes) => {
                    let got = Digest::of(&bytes);
                    return match wanted.filter(|wanted| *wanted != got) {
                        None => Ok((bytes, media_type)),
                        Some(expected) => Err(RegistryError::Digest {
                            what,
                            host,
                            expected,
                            got,
                        }),
                    };
                }
                Err(error) => {
                    let reason = crate::text::printable(&error.to_string());
                    if tries >= self.http.options.retries || self.http.aborted() {
                        return Err(RegistryError::Unreachable { what, host, reason });
                    }
                    self.http.pause(&what, &host, &reason, tries, None, progress)?;
                    tries += 1;
                }
            }
        }
    }

    /// What refers to the manifest with this digest, of one type if that is said: by the registry's list, or where it has
    /// none by the tag that stands in for it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn referrers(
        &self,
        reference: &Reference,
        digest: &Digest,
        artifact_type: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Vec<Referrer>, RegistryError> {
        let what = format!("list of what refers to {reference}");
        let own = self.own_endpoint(reference.domain())?;
        let turn = Turn {
            via: &own,
            last: true,
        };
        let get = |path: &str| {
            let call = Call {
                what: &what,
                from: reference,
                to: &turn,
                method: Method::GET,
                path,
                headers: vec![(header::ACCEPT, media::OCI_INDEX.to_owned())],
            };
            match self.ask(call, progress) {
                // Of a registry, or a tag, that is not there is spoken elsewhere: the image itself was found.
                Err(RegistryError::NotFound { .. }) => Ok(None),
                other => other.map(Some),
            }
        };
        let mut path = format!("referrers/{digest}");
        if let Some(wanted) = artifact_type {
            path += &format!("?artifactType={}", encode(wanted));
        }
        let mut pages = Vec::new();
        let mut next = Some(path);
        while let Some(path) = next.take().filter(|_| pages.len() < MAX_PAGES) {
            let Some(answer) = get(&path)? else { break };
            let prefix = format!("/v2/{}/", reference.path());
            let link = answer.header(header::LINK).and_then(next_page);
            next = link
                .and_then(|link| answer.url.join(&link))
                .and_then(|url| Some(url.path.strip_prefix(&prefix)?.to_owned()));
            pages.push(answer);
        }
        if pages.is_empty() {
            let tag = format!("manifests/sha256-{}", digest.hex());
            pages.extend(get(&tag)?);
        }
        let mut found = Vec::new();
        for page in pages {
            let host = page.url.authority.clone();
            let bytes = page
                .bytes(MAX_MANIFEST)
                .map_err(|error| RegistryError::Unreachable {
                    what: what.clone(),
                    host: host_of(reference.domain()).to_owned(),
                    reason: crate::text::printable(&error.to_string()),
                })?;
            let list: List = serde_json::from_slice(&bytes).map_err(|error| RegistryError::Manifest {
                what: what.clone(),
                host,
                source: crate::manifest::ManifestError::Syntax {
                    reason: crate::text::printable(&error.to_string()),
                },
            })?;
            found.extend(list.manifests.into_iter().filter_map(Listed::referrer));
        }
        // Not every registry chooses, and the tag has all.
        found.retain(|referrer| artifact_type.is_none_or(|wanted| referrer.artifact_type == wanted));
        Ok(found)
    }
}

/// Where a `Link: <…>; rel="next"` leads.
fn next_page(value: &str) -> Option<String> {
    let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
    parameters
        .replace('"', "")
        .contains("rel=next")
        .then(|| target.to_owned())
}

#[derive(Deserialize)]
struct List {
    #[serde(default, deserialize_with = "nullable")]
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(default, deserialize_with = "nullable")]
    media_type: String,
    #[serde(default, deserialize_with = "nullable")]
    artifact_type: String,
    #[serde(default, deserialize_with = "nullable")]
    digest: String,
    #[serde(default, deserialize_with = "nullable")]
    size: u64,
    #[serde(default, deserialize_with = "nullable")]
    annotations: std::collections::BTreeMap<String, String>,
}

impl Listed {
    fn referrer(self) -> Option<Referrer> {
        Some(Referrer {
            descriptor: Descriptor {
                media_type: self.media_type,
                digest: self.digest.parse().ok()?,
                size: self.size,
            },
            artifact_type: self.artifact_type,
            annotations: self.annotations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        let next = next_page("</v2/a/referrers/x?n=2>; rel=\"next\"");
        assert_eq!(next.as_deref(), Some("/v2/a/referrers/x?n=2"));
        assert_eq!(next_page("</v2/a>; rel=\"prev\""), None);
        assert_eq!(next_page("nothing"), None);
    }
}
