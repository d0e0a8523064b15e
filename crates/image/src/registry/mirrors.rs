//! Several hosts for one registry: asked in the order of its `hosts.toml`, each until it fails.
//!
//! One that has not what is asked for, refuses it, is not there, or sends something else than it should, is passed by
//! for the next; the last one, the registry itself as a rule, is asked as patiently as if it were the only one, and
//! it is its error that is answered.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use store::Digest;

use super::client::Client;
use super::error::RegistryError;
use super::host_of;
use super::hosts::{self, Capability, Endpoint};
use super::http::lock;
use crate::progress::{Event, Progress};
use crate::reference::Reference;

/// Which hosts there are, and what is known of them.
#[derive(Default)]
pub(super) struct Mirrors {
    /// By domain of image names.
    known: Mutex<HashMap<String, Arc<Vec<Endpoint>>>>,
    /// Which hosts gave bytes of a blob, and which gave wrong ones.
    blobs: Mutex<HashMap<Digest, Givers>>,
    /// Hosts that could not be reached, while others are there to ask.
    down: Mutex<HashSet<String>>,
}

/// Hosts by authority.
#[derive(Default)]
struct Givers {
    gave: Vec<String>,
    wrong: Vec<String>,
}

/// Whose turn it is.
pub(super) struct Turn<'a> {
    pub(super) via: &'a Endpoint,
    /// There is nobody else to ask.
    pub(super) last: bool,
}

impl Client {
    fn endpoints(&self, domain: &str) -> Result<Arc<Vec<Endpoint>>, RegistryError> {
        if let Some(known) = lock(&self.mirrors.known).get(domain) {
            return Ok(known.clone());
        }
        let found = match hosts::read(&self.hosts, domain)? {
            Some(found) => found,
            None => vec![Endpoint::own(self.http.url(host_of(domain), "/v2")?)],
        };
        let found = Arc::new(found);
        lock(&self.mirrors.known).insert(domain.to_owned(), found.clone());
        Ok(found)
    }

    /// The registry itself.
    pub(super) fn own_endpoint(&self, domain: &str) -> Result<Endpoint, RegistryError> {
        let endpoints = self.endpoints(domain)?;
        let own = endpoints.iter().find(|endpoint| endpoint.own);
        own.cloned()
            .ok_or_else(|| RegistryError::Setup(format!("{domain} has no host of its own")))
    }

    /// Asks one host after another until one gives an answer. `blob`: hosts that gave wrong bytes of it are passed by.
    pub(super) fn by_turns<T>(
        &self,
        from: &Reference,
        capability: Capability,
        blob: Option<&Digest>,
        progress: &dyn Progress,
        mut ask: impl FnMut(Turn<'_>) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let endpoints = self.endpoints(from.domain())?;
        let wrong = |endpoint: &&Endpoint| {
            let blobs = lock(&self.mirrors.blobs);
            let givers = blob.and_then(|blob| blobs.get(blob));
            givers.is_some_and(|givers| givers.wrong.contains(&endpoint.base.authority))
        };
        let down = |endpoint: &&Endpoint| lock(&self.mirrors.down).contains(&endpoint.base.authority);
        let able = endpoints.iter().filter(|endpoint| endpoint.can(capability));
        let mut turns = able
            .filter(|endpoint| !wrong(endpoint) && !down(endpoint))
            .peekable();
        while let Some(via) = turns.next() {
            let next = turns.peek().map(|next| next.base.authority.as_str());
            let turn = Turn {
                via,
                last: next.is_none(),
            };
            match (ask(turn), next) {
                (Err(error), Some(next)) if error.concerns_the_host() => {
                    if matches!(error, RegistryError::Unreachable { .. }) {
                        lock(&self.mirrors.down).insert(via.base.authority.clone());
                    }
                    let text = format!("{error}; {next} is asked instead");
                    progress.event(&Event::Note { text: &text });
                }
                (answer, _) => return answer,
            }
        }
        let domain = from.domain();
        Err(RegistryError::Setup(format!(
            "the hosts.toml of {domain} names no host that may be asked for this"
        )))
    }

    /// A host gave bytes of a blob.
    pub(super) fn gave(&self, blob: &Digest, via: &Endpoint) {
        let mut blobs = lock(&self.mirrors.blobs);
        let gave = &mut blobs.entry(*blob).or_default().gave;
        if !gave.contains(&via.base.authority) {
            gave.push(via.base.authority.clone());
        }
    }

    /// What came of a blob was not the blob: no host that gave bytes of it is asked for it again. Answers whether
    /// there is another one.
    pub fn distrust(&self, reference: &Reference, blob: &Digest) -> bool {
        let Ok(endpoints) = self.endpoints(reference.domain()) else {
            return false;
        };
        let mut blobs = lock(&self.mirrors.blobs);
        let givers = blobs.entry(*blob).or_default();
        let gave = std::mem::take(&mut givers.gave);
        let somebody = !gave.is_empty();
        givers.wrong.extend(gave);
        let left = |endpoint: &Endpoint| {
            endpoint.can(Capability::Pull) && !givers.wrong.contains(&endpoint.base.authority)
        };
        somebody && endpoints.iter().any(left)
    }
}
