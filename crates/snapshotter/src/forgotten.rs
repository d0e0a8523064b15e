//! Which of its snapshots containerd does not know any more.
//!
//! containerd removes what it has forgotten when it next collects garbage. What stays is that of a containerd whose own
//! database was lost or put back, or that does not use this snapshotter any more; nobody else will remove it.
//!
//! containerd tells names, without the numbers that its keys have. One name may stand here several times: a containerd whose
//! database was lost counts from 1 again, so that what it brings anew stands beside what it forgot, by the same names and
//! lower numbers. It tells when *it* wrote that each was made, about when it was made here: what was made at another time, while
//! another by the name was made at that, is what it forgot. Where that is not so clear, all by the name are known.

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

/// How far apart may be when containerd wrote that something was made, and when that was done here: a commit waits for the
/// disk as long as ten minutes.
const APART: SignedDuration = SignedDuration::from_mins(11);

/// How long containerd is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A snapshot as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its namespace.
    pub ns: String,
    /// Its key.
    pub key: String,
    /// When it was made, or committed.
    pub created: Timestamp,
    /// When it was changed last.
    pub updated: Timestamp,
}

/// Why containerd could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// It does not answer, or not this.
    #[error("containerd at {} cannot be asked: {why}", socket.display())]
    Refused {
        /// Where it listens.
        socket: PathBuf,
        /// What went wrong.
        why: ClientError,
    },
    /// What it knows lies elsewhere.
    #[error("containerd at {} has {count} snapshots in the namespace {ns}, and none of them is in this store", socket.display())]
    Elsewhere {
        /// Where it listens.
        socket: PathBuf,
        /// The namespace.
        ns: String,
        /// How many it has.
        count: usize,
    },
}

impl AskError {
    /// Whether there is nobody to ask: no socket, or nobody who listens on it.
    pub fn is_nobody(&self) -> bool {
        matches!(self, AskError::Refused { why: ClientError::Io(error), .. }
            if [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind()))
    }

    /// Whether that containerd has no snapshotter of this name.
    pub fn is_unknown(&self) -> bool {
        matches!(self, AskError::Refused { why: ClientError::Status(status), .. }
            if [Code::NotFound, Code::InvalidArgument, Code::Unimplemented].contains(&status.code))
    }
}

/// Whether a key is one that containerd gives in this namespace, or one of a layer that was here already.
pub fn is_containerds(ns: &str, key: &str) -> bool {
    parts(ns, key).is_some()
}

/// Names of a namespace, and when containerd wrote that each was made; without a time where it tells none.
type Known = BTreeMap<String, Option<Timestamp>>;

/// Whether a snapshot is older than whatever may be just being made.
pub fn is_old(updated: Timestamp, now: Timestamp) -> bool {
    now.duration_since(updated) > YOUNG
}

/// Those of `kept` that the containerd at `socket` does not know, in their order. `snapshotter` is what it calls this
/// one. What has no key of containerd's shape is another client's, and not asked for.
///
/// # Errors
/// It does not answer, has no such snapshotter, or has one that is not of this store.
pub fn forgotten(
    socket: &Path,
    snapshotter: &str,
    kept: Vec<Kept>,
    now: Timestamp,
) -> Result<Vec<Kept>, AskError> {
    let failed = |why: ClientError| AskError::Refused {
        socket: socket.to_owned(),
        why,
    };
    let mut client = Client::connect(socket).map_err(|error| failed(error.into()))?;
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    for one in &kept {
        if !known.contains_key(&one.ns) {
            let names = names(&mut client, &one.ns, snapshotter).map_err(failed)?;
            known.insert(one.ns.clone(), names);
        }
    }
    for (ns, names) in &known {
        let mut here = kept.iter().filter(|one| one.ns == *ns);
        // Another one's, such as Docker's beside Kubernetes': of what is here it knows nothing.
        if !names.is_empty() && !here.any(|one| find(&known, one).is_some()) {
            return Err(AskError::Elsewhere {
                socket: socket.to_owned(),
                ns: ns.clone(),
                count: names.len(),
            });
        }
    }
    Ok(sift(kept, &known, now))
}

/// What containerd has in a namespace.
fn names(client: &mut Client, ns: &str, snapshotter: &str) -> Result<Known, ClientError> {
    let request = wire::ListRequest {
        snapshotter: snapshotter.to_owned(),
        filters: Vec::new(),
    };
    let path = format!("{SERVICE}List");
    let pages = client.call(&path, &[(NAMESPACE, ns)], &request.encode_to_vec(), PATIENCE)?;
    let mut names = Known::new();
    for page in pages {
        let page = wire::ListResponse::decode(&page[..]);
        let page = page.map_err(|_| ClientError::Protocol("a listing cannot be read"))?;
        let time = |time: wire::Timestamp| Timestamp::new(time.seconds, time.nanos).ok();
        names.extend(
            page.info
                .into_iter()
                .map(|info| (info.name, info.created_at.and_then(time))),
        );
    }
    Ok(names)
}

fn sift(kept: Vec<Kept>, known: &BTreeMap<String, Known>, now: Timestamp) -> Vec<Kept> {
    // Names that stand here with the time that containerd tells.
    let mut sure: BTreeSet<(String, String)> = BTreeSet::new();
    for one in &kept {
        if let Some(Match { name, .. }) = find(known, one).filter(|found| found.is_in_time) {
            sure.insert((one.ns.clone(), name.to_owned()));
        }
    }
    let is_known = |one: &Kept| match find(known, one) {
        None => false,
        // What was here already was made when somebody first asked for it.
        Some(found) if found.is_in_time || found.number == 0 => true,
        Some(found) => !sure.contains(&(one.ns.clone(), found.name.to_owned())),
    };
    let is_forgotten =
        |one: &Kept| is_containerds(&one.ns, &one.key) && is_old(one.updated, now) && !is_known(one);
    let gone: Vec<bool> = kept.iter().map(is_forgotten).collect();
    let both = kept.into_iter().zip(gone);
    both.filter_map(|(one, is_gone)| is_gone.then_some(one)).collect()
}

/// A snapshot by whose name containerd knows one.
struct Match<'a> {
    number: u64,
    name: &'a str,
    /// Whether it was made when containerd says.
    is_in_time: bool,
}

fn find<'a>(known: &BTreeMap<String, Known>, one: &'a Kept) -> Option<Match<'a>> {
    let (number, name) = parts(&one.ns, &one.key)?;
    let created = known.get(&one.ns)?.get(name)?;
    Some(Match {
        number,
        name,
        is_in_time: created.is_some_and(|created| created.duration_since(one.created).abs() <= APART),
    })
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
        let ago = |age: i64| Timestamp::from_second(1_000_000 - age).unwrap();
        let kept = |key: &str, age: i64| Kept {
            ns: "k8s.io".into(),
            key: key.into(),
            created: ago(age),
            updated: ago(age),
        };
        let all = vec![
            kept("k8s.io/1/sha256:known", 10_000),
            kept("k8s.io/2/sha256:gone", 100),
            // It was brought anew by a containerd that began to count again.
            kept("k8s.io/3/sha256:twice", 200),
            kept("k8s.io/40/sha256:twice", 20_000),
            kept("k8s.io/41/sha256:unclear", 20_000),
            kept("k8s.io/42/sha256:unclear", 30_000),
            kept("k8s.io/5/extract new", 10),
            kept("k8s.io/0/sha256:ours", 20_000),
            kept("k8s.io/0/sha256:ours.1", 20_000),
            kept("k8s.io/6/sha256:ours", 100),
            kept("k8s.io/7/sha256:timeless", 100),
            kept("by hand", 100),
            kept("moby/6/other", 100),
        ];
        let names = [
            ("sha256:known", Some(100)),
            ("sha256:twice", Some(100)),
            ("sha256:unclear", Some(100)),
            ("sha256:ours", Some(100)),
            ("sha256:timeless", None),
        ];
        let names = names.map(|(name, age)| (name.to_owned(), age.map(ago)));
        let known = BTreeMap::from([("k8s.io".to_owned(), Known::from(names))]);
        let keys: Vec<String> = sift(all, &known, now).into_iter().map(|one| one.key).collect();
        assert_eq!(keys, ["k8s.io/2/sha256:gone", "k8s.io/40/sha256:twice"]);
    }
}
