//! Which of its snapshots containerd does not know any more.
//!
//! containerd removes what it has forgotten when it next collects garbage. What stays is that of a containerd whose own
//! database was lost or put back, or that does not use this snapshotter any more; nobody else will remove it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grpc::{Client, ClientError, Code};
use jiff::{SignedDuration, Timestamp};
use prost::Message;

use crate::wire::{self, NAMESPACE, SERVICE};

/// What is younger may be just being made: containerd writes its own row last.
const YOUNG: SignedDuration = SignedDuration::from_secs(60);

/// How long containerd is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A snapshot as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its namespace.
    pub ns: String,
    /// Its key.
    pub key: String,
    /// When it was changed last.
    pub updated: Timestamp,
}

/// Why containerd could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("containerd at {} cannot be asked: {why}", socket.display())]
pub struct AskError {
    socket: PathBuf,
    why: ClientError,
}

impl AskError {
    /// Whether there is nobody to ask: no socket, or nobody who listens on it.
    pub fn is_nobody(&self) -> bool {
        matches!(&self.why, ClientError::Io(error)
            if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()))
    }

    /// Whether that containerd has no snapshotter of this name.
    pub fn is_unknown(&self) -> bool {
        matches!(&self.why, ClientError::Status(status)
            if [Code::NotFound, Code::InvalidArgument, Code::Unimplemented].contains(&status.code))
    }
}

/// Whether a key is one that containerd gives in this namespace, or one of a layer that was here already.
pub fn is_containerds(ns: &str, key: &str) -> bool {
    parts(ns, key).is_some()
}

/// Those of `kept` that the containerd at `socket` does not know, in their order. `snapshotter` is what it calls this
/// one. What has no key of containerd's shape is another client's, and not asked for.
///
/// # Errors
/// It does not answer, or has no such snapshotter.
pub fn forgotten(
    socket: &Path,
    snapshotter: &str,
    kept: Vec<Kept>,
    now: Timestamp,
) -> Result<Vec<Kept>, AskError> {
    let failed = |why: ClientError| AskError {
        socket: socket.to_owned(),
        why,
    };
    let mut client = Client::connect(socket).map_err(|error| failed(error.into()))?;
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for one in &kept {
        if !known.contains_key(&one.ns) {
            let names = names(&mut client, &one.ns, snapshotter).map_err(failed)?;
            known.insert(one.ns.clone(), names);
        }
    }
    Ok(sift(kept, &known, now))
}

/// What containerd calls its snapshots in a namespace.
fn names(client: &mut Client, ns: &str, snapshotter: &str) -> Result<BTreeSet<String>, ClientError> {
    let request = wire::ListRequest {
        snapshotter: snapshotter.to_owned(),
        filters: Vec::new(),
    };
    let path = format!("{SERVICE}List");
    let pages = client.call(&path, &[(NAMESPACE, ns)], &request.encode_to_vec(), PATIENCE)?;
    let mut names = BTreeSet::new();
    for page in pages {
        let page = wire::ListResponse::decode(&page[..]);
        let page = page.map_err(|_| ClientError::Protocol("a listing cannot be read"))?;
        names.extend(page.info.into_iter().map(|info| info.name));
    }
    Ok(names)
}

fn sift(kept: Vec<Kept>, known: &BTreeMap<String, BTreeSet<String>>, now: Timestamp) -> Vec<Kept> {
    // Of several by one name, containerd knows the one that it made last.
    let mut last: BTreeMap<(String, String), u64> = BTreeMap::new();
    for one in &kept {
        if let Some((number, name)) = parts(&one.ns, &one.key) {
            let number_of = last.entry((one.ns.clone(), name.to_owned())).or_default();
            *number_of = number.max(*number_of);
        }
    }
    let is_forgotten = |one: &Kept| {
        let Some((number, name)) = parts(&one.ns, &one.key) else {
            return false;
        };
        let is_known = known.get(&one.ns).is_some_and(|names| names.contains(name));
        let is_last = last.get(&(one.ns.clone(), name.to_owned())) == Some(&number);
        now.duration_since(one.updated) > YOUNG && !(is_known && is_last)
    };
    kept.into_iter().filter(is_forgotten).collect()
}

/// Number and name of a key of containerd's. Of a layer that was here already, the number is ours, and the name may have
/// one behind it.
fn parts<'a>(ns: &str, key: &'a str) -> Option<(u64, &'a str)> {
    let (number, name) = key.strip_prefix(ns)?.strip_prefix('/')?.split_once('/')?;
    let number = number.parse().ok()?;
    match name.rsplit_once('.') {
        Some((chain, nth)) if number == 0 && nth.parse::<u64>().is_ok() => Some((0, chain)),
        _ => Some((number, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_old_and_unknown_is_forgotten() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let kept = |key: &str, age: i64| Kept {
            ns: "k8s.io".into(),
            key: key.into(),
            updated: Timestamp::from_second(1_000_000 - age).unwrap(),
        };
        let all = vec![
            kept("k8s.io/1/sha256:known", 100),
            kept("k8s.io/2/sha256:gone", 100),
            kept("k8s.io/3/sha256:twice", 100),
            kept("k8s.io/4/sha256:twice", 100),
            kept("k8s.io/5/extract new", 10),
            kept("k8s.io/0/sha256:ours", 100),
            kept("k8s.io/0/sha256:ours.1", 100),
            kept("by hand", 100),
            kept("moby/6/other", 100),
        ];
        let names = ["sha256:known", "sha256:twice", "sha256:ours"].map(str::to_owned);
        let known = BTreeMap::from([("k8s.io".to_owned(), BTreeSet::from(names))]);
        let keys: Vec<String> = sift(all, &known, now).into_iter().map(|one| one.key).collect();
        assert_eq!(keys, ["k8s.io/2/sha256:gone", "k8s.io/3/sha256:twice"]);
    }
}
