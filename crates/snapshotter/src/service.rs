//! [`Snapshotter`]: each call of the service, answered from a store.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use grpc::{Call, Code, Ended, Gone, Lane, Reply, Status};
use prost::Message;
use store::{Alone, CommitOptions, Counts, Fault, Info, Kind, REF, SnapshotError, Store};

use crate::filter::Filter;
use crate::fuse::{Fuse, LOOK, Turn};
use crate::labels::{self, UPPERDIR};
use crate::metrics::Metrics;
use crate::names;
use crate::wire::{self, HEALTH, SERVICE};

/// Snapshots in one message of a listing (containerd's own number).
const PAGE: usize = 100;

/// How long a writable directory may be walked: containerd asks for each of them every ten seconds, and does not wait for
/// the answer before it asks again.
const WALK: Duration = Duration::from_secs(10);

/// What waiting for the disk may take.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Bytes of the stack of a thread that looks at servers.
const STACK: usize = 128 * 1024;

/// How the service behaves where the contract leaves it open.
#[derive(Debug, Default)]
pub struct Options {
    /// Tell where each snapshot's own directory is, by a label of its: some tools look for it.
    pub upperdir_label: bool,
    /// Options of every overlay, after its directories.
    pub mount_options: Vec<String>,
    /// Map no ids by mounts: containerd has changed the owners itself.
    pub no_remap_ids: bool,
    /// The driver by which overlays are mounted, and told as binds, or were: containerd mounts the others.
    pub fuse: Option<Fuse>,
}

/// The service.
pub struct Snapshotter {
    /// For calls that change something.
    writer: Store,
    /// For calls that look: a connection of their own, which waits for no transaction.
    reader: Store,
    options: Options,
    metrics: Arc<Metrics>,
    _alone: Alone,
}

/// Why the store refused.
pub(crate) type Refused = SnapshotError;

/// The method of a path.
fn method(path: &str) -> &str {
    path.strip_prefix(SERVICE).unwrap_or_default()
}

impl Snapshotter {
    /// A service of the store at `root`, which is made when it is missing.
    ///
    /// # Errors
    /// The store cannot be made or opened, or another process serves it.
    pub fn open(root: &Path, options: Options) -> Result<Snapshotter, store::OpenError> {
        let writer = Store::open(root)?;
        let alone = writer.serve_alone()?;
        let reader = writer.reopen()?;
        writer.stay_open()?;
        reader.stay_open()?;
        Ok(Snapshotter {
            reader,
            writer,
            options,
            metrics: Arc::new(Metrics::default()),
            _alone: alone,
        })
    }

    /// Lets a driver in user space, of the same store, mount overlays.
    pub fn mounted_by(mut self, fuse: Fuse) -> Snapshotter {
        self.options.fuse = Some(fuse);
        self
    }

    /// Looks from time to time, on a thread of its own, for what processes served that were killed, and unmounts it.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn look_after_served(self: &Arc<Self>) -> io::Result<()> {
        let service = self.clone();
        let look = move || {
            while let Some(fuse) = &service.options.fuse {
                fuse.clear_killed();
                std::thread::sleep(LOOK);
            }
        };
        let thread = std::thread::Builder::new().name("served".to_owned());
        thread.stack_size(STACK).spawn(look).map(drop)
    }

    /// What is counted of its calls.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// How much the store has.
    ///
    /// # Errors
    /// It does not answer.
    pub fn counts(&self) -> Result<Counts, Fault> {
        self.reader.counts()
    }

    /// Prepares a snapshot or a view, unless the layer that is to be unpacked into it is here.
    fn make(&self, call: &Call, kind: Kind) -> Result<Vec<u8>, Status> {
        let wire::PrepareRequest {
            key, parent, labels, ..
        } = decode(call)?;
        let ns = names::of_new(call, &key)?;
        let parent = (!parent.is_empty()).then_some(parent.as_str());
        let options = labels::options(&key, &labels)?;
        if kind == Kind::Active
            && let Some(chain) = labels.get(REF)
        {
            let kept = &options.labels;
            if self
                .writer
                .adopt(&ns, chain, parent, kept)
                .map_err(refused)?
                .is_some()
            {
                self.metrics.adopted();
                return Err(refused(SnapshotError::AlreadyExists(chain.clone())));
            }
        }
        let turn = self.turn(&ns, &key)?;
        let mounts = match kind {
            Kind::View => self.writer.view(&ns, &key, parent, &options),
            _ => self.writer.prepare(&ns, &key, parent, &options),
        };
        let mounts = mounts.map_err(refused)?;
        // What is mounted there is of one that was called so, and that somebody else took from the store.
        let released = turn.as_ref().map_or(Ok(()), Turn::release);
        let released = released.map_err(|error| not_mounted(&key, &error));
        let answer = released.and_then(|()| self.mounts(turn.as_ref(), &key, mounts));
        answer.inspect_err(|_| {
            // What cannot be mounted is not there, so that it may be prepared again.
            let _ = self.writer.remove(&ns, &key);
        })
    }

    fn mounts(
        &self,
        turn: Option<&Turn<'_>>,
        key: &str,
        mut mounts: Vec<mount::Mount>,
    ) -> Result<Vec<u8>, Status> {
        let maps = |option: &String| option.starts_with("uidmap=") || option.starts_with("gidmap=");
        for mount in &mut mounts {
            if self.options.no_remap_ids {
                mount.options.retain(|option| !maps(option));
            }
            if mount.kind == "overlay" {
                // Behind the directories, before what the store itself says of how it is written.
                let place = mount
                    .options
                    .iter()
                    .rposition(|option| option.starts_with("lowerdir="));
                let place = place.map_or(0, |place| place + 1);
                mount
                    .options
                    .splice(place..place, self.options.mount_options.iter().cloned());
            }
        }
        // To a layer that is unpacked apart, containerd writes whiteouts itself, where it is an overlay of the kernel's.
        if let (Some(fuse), Some(turn)) = (&self.options.fuse, turn)
            && !mounts.iter().any(|mount| self.reader.is_apart(mount))
        {
            mounts = fuse
                .mounts(turn, mounts)
                .map_err(|error| not_mounted(key, &error))?;
        }
        let mounts = mounts.into_iter().map(|mount| wire::Mount {
            kind: mount.kind,
            source: mount.source,
            target: String::new(),
            options: mount.options,
        });
        let mounts = mounts.collect();
        Ok(wire::MountsResponse { mounts }.encode_to_vec())
    }

    fn info(&self, info: Info) -> wire::Info {
        let mut labels = info.labels;
        if self.options.upperdir_label
            && let Some(n) = info.n
        {
            let path = self.reader.layer_path(n).to_string_lossy().into_owned();
            labels.insert(UPPERDIR.to_owned(), path);
        }
        let kind = match info.kind {
            Kind::View => wire::Kind::View,
            Kind::Active => wire::Kind::Active,
            Kind::Committed => wire::Kind::Committed,
        };
        let time = |time: jiff::Timestamp| {
            Some(wire::Timestamp {
                seconds: time.as_second(),
                nanos: time.subsec_nanosecond(),
            })
        };
        wire::Info {
            name: info.key,
            parent: info.parent.unwrap_or_default(),
            kind: kind as i32,
            created_at: time(info.created),
            updated_at: time(info.updated),
            labels,
        }
    }

    /// Keeps others from a snapshot's place among what the driver in user space mounts.
    fn turn(&self, ns: &str, key: &str) -> Result<Option<Turn<'_>>, Status> {
        match &self.options.fuse {
            Some(fuse) => fuse.turn_of(ns, key).map_err(|error| not_mounted(key, &error)),
            None => Ok(None),
        }
    }

    /// Unmounts what that driver has mounted of a snapshot.
    fn release(&self, ns: &str, key: &str) -> Result<Option<Turn<'_>>, Status> {
        match &self.options.fuse {
            Some(fuse) => fuse.release(ns, key).map_err(|error| not_mounted(key, &error)),
            None => Ok(None),
        }
    }

    /// Unmounts what that driver has mounted of snapshots that somebody else took from the store.
    fn sweep(&self) {
        if let Some(fuse) = &self.options.fuse {
            let is_there = |ns: &str, key: &str| {
                let found = self.reader.stat(ns, key);
                !matches!(found, Err(SnapshotError::NotFound(_)))
            };
            fuse.sweep(is_there);
        }
    }

    fn commit(&self, call: &Call) -> Result<Vec<u8>, Status> {
        let wire::CommitRequest {
            name,
            key,
            mut labels,
            parent,
            ..
        } = decode(call)?;
        let ns = names::of(call, &self.reader, &key)?;
        labels.remove(UPPERDIR);
        let options = CommitOptions {
            labels,
            parent: (!parent.is_empty()).then_some(parent),
        };
        let _turn = self.release(&ns, &key)?;
        self.writer.commit(&ns, &name, &key, &options).map_err(refused)?;
        Ok(Vec::new())
    }

    fn update(&self, call: &Call) -> Result<Vec<u8>, Status> {
        let wire::UpdateRequest {
            info, update_mask, ..
        } = decode(call)?;
        let mut info =
            info.ok_or_else(|| Status::new(Code::InvalidArgument, "an update names no snapshot"))?;
        let ns = names::of(call, &self.reader, &info.name)?;
        info.labels.remove(UPPERDIR);
        let paths = update_mask.unwrap_or_default().paths;
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let updated = self
            .writer
            .update(&ns, &info.name, &info.labels, &paths)
            .map_err(refused)?;
        let info = Some(self.info(updated));
        Ok(wire::InfoResponse { info }.encode_to_vec())
    }

    fn list(&self, call: &Call, reply: &mut Reply<'_>) -> Result<(), Status> {
        let wire::ListRequest { filters, .. } = decode(call)?;
        let filter =
            Filter::parse_all(&filters).map_err(|e| Status::new(Code::InvalidArgument, e.to_string()))?;
        let fault = |fault: Fault| refused(fault.into());
        let namespaces = match names::named(call)? {
            Some(name) => vec![name.to_owned()],
            None => self.reader.snapshot_namespaces().map_err(fault)?,
        };
        let mut page = wire::ListResponse::default();
        for ns in namespaces {
            let mut after = None;
            loop {
                let infos = self.reader.list(&ns, after.as_deref(), PAGE).map_err(fault)?;
                let Some(last) = infos.last() else { break };
                after = Some(last.key.clone());
                for info in infos {
                    // What images and containers of ours hold is not containerd's: it would take it for garbage.
                    if info.held {
                        continue;
                    }
                    let info = self.info(info);
                    if !filter.matches(&info) {
                        continue;
                    }
                    page.info.push(info);
                    if page.info.len() == PAGE && reply.send(take(&mut page)) == Err(Gone) {
                        let text = "the listing was not taken in its time";
                        return Err(Status::new(Code::DeadlineExceeded, text));
                    }
                }
            }
        }
        if !page.info.is_empty() {
            let _ = reply.send(take(&mut page));
        }
        Ok(())
    }

    fn unary(&self, call: &Call) -> Result<Vec<u8>, Status> {
        match method(&call.path) {
            "Prepare" => self.make(call, Kind::Active),
            "View" => self.make(call, Kind::View),
            "Mounts" => {
                let wire::KeyRequest { key, .. } = decode(call)?;
                let ns = names::of(call, &self.reader, &key)?;
                let turn = self.turn(&ns, &key)?;
                let mounts = self.reader.mounts_again(&ns, &key).map_err(refused)?;
                self.mounts(turn.as_ref(), &key, mounts)
            }
            "Commit" => self.commit(call),
            "Remove" => {
                let wire::KeyRequest { key, .. } = decode(call)?;
                let ns = names::of(call, &self.reader, &key)?;
                let _turn = self.release(&ns, &key)?;
                // containerd holds a lock meanwhile that starts of containers wait for, and asks for a Cleanup afterwards.
                self.writer.remove_later(&ns, &key).map_err(refused)?;
                Ok(Vec::new())
            }
            "Stat" => {
                let wire::KeyRequest { key, .. } = decode(call)?;
                let ns = names::of(call, &self.reader, &key)?;
                let info = Some(self.info(self.reader.stat(&ns, &key).map_err(refused)?));
                Ok(wire::InfoResponse { info }.encode_to_vec())
            }
            "Update" => self.update(call),
            "Usage" => {
                let wire::KeyRequest { key, .. } = decode(call)?;
                let ns = names::of(call, &self.reader, &key)?;
                let until = Some(Instant::now() + WALK);
                let usage = self.reader.usage_until(&ns, &key, until).map_err(refused)?;
                let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
                let (size, inodes) = (number(usage.bytes), number(usage.inodes));
                Ok(wire::UsageResponse { size, inodes }.encode_to_vec())
            }
            "Cleanup" => {
                self.sweep();
                self.writer.collect().map_err(|e| refused(e.into()))?;
                Ok(Vec::new())
            }
            _ if call.path == HEALTH => {
                let wire::HealthRequest { service } = decode(call)?;
                if !service.is_empty() && format!("/{service}/") != SERVICE {
                    let text = format!("there is no service {service:?} here");
                    return Err(Status::new(Code::NotFound, text));
                }
                let status = if self.counts().is_ok() { 1 } else { 2 };
                Ok(wire::HealthResponse { status }.encode_to_vec())
            }
            _ => Err(Status::new(
                Code::Unimplemented,
                format!("{} is not served here", call.path),
            )),
        }
    }
}

impl grpc::Service for Snapshotter {
    fn lane(&self, path: &str) -> Lane {
        match method(path) {
            "Prepare" | "View" | "Commit" | "Remove" | "Update" => Lane::Write,
            // Something may have to be mounted, by a process that has to be started.
            "Mounts" if self.options.fuse.as_ref().is_some_and(Fuse::serves) => Lane::Write,
            "Usage" | "Cleanup" => Lane::Walk,
            "Mounts" | "Stat" => Lane::Look,
            _ => Lane::Read,
        }
    }

    /// A commit waits until the disk has what was unpacked, and a clean-up until trees are removed: as long as they are large.
    fn time(&self, path: &str, usual: Duration) -> Duration {
        match method(path) {
            "Commit" | "Cleanup" => usual.max(PATIENCE),
            _ => usual,
        }
    }

    fn call(&self, call: &Call, reply: &mut Reply<'_>) -> Result<(), Status> {
        if method(&call.path) == "List" {
            return self.list(call, reply);
        }
        // One message is held until the end, so that nobody can be gone yet.
        let _ = reply.send(self.unary(call)?);
        Ok(())
    }

    fn ended(&self, ended: &Ended<'_>) {
        self.metrics.count(method(ended.path), ended.code, ended.took);
    }
}

fn decode<M: Message + Default>(call: &Call) -> Result<M, Status> {
    M::decode(&call.message[..]).map_err(|error| {
        let text = format!("{}: the message cannot be read: {error}", call.path);
        Status::new(Code::InvalidArgument, text)
    })
}

fn take(page: &mut wire::ListResponse) -> Vec<u8> {
    let bytes = page.encode_to_vec();
    page.info.clear();
    bytes
}

fn not_mounted(key: &str, error: &mount::MountError) -> Status {
    let code = match error {
        mount::MountError::Io { error, .. } if error.kind() == std::io::ErrorKind::ResourceBusy => {
            Code::Unavailable
        }
        mount::MountError::Io { error, .. } if error.kind() == std::io::ErrorKind::InvalidFilename => {
            Code::InvalidArgument
        }
        _ => Code::Internal,
    };
    Status::new(code, format!("snapshot {key:?}: {error}"))
}

/// What the store refused, as a status: the variants are containerd's.
pub(crate) fn refused(error: Refused) -> Status {
    let code = match &error {
        SnapshotError::NotFound(_) => Code::NotFound,
        SnapshotError::AlreadyExists(_) => Code::AlreadyExists,
        SnapshotError::InvalidArgument { .. } => Code::InvalidArgument,
        SnapshotError::FailedPrecondition { .. } | SnapshotError::NoQuota(_) => Code::FailedPrecondition,
        SnapshotError::Fault(fault) => match fault {
            Fault::Full(..) => Code::ResourceExhausted,
            Fault::ReadOnly(_) => Code::FailedPrecondition,
            Fault::Busy(_) => Code::Unavailable,
            Fault::Corrupt { .. } => Code::DataLoss,
            Fault::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => {
                Code::DeadlineExceeded
            }
            _ => Code::Internal,
        },
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_that_walk_keep_no_mounts_waiting() {
        const WALKS: usize = 24;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let service = Snapshotter::open(&root, Options::default()).unwrap();
        service
            .writer
            .prepare("ns", "large", None, &Default::default())
            .unwrap();
        for n in 0..10_000 {
            std::fs::File::create(root.join(format!("snapshots/1/fs/{n}"))).unwrap();
        }
        let server = grpc::Server::new(Arc::new(service), grpc::Limits::default()).unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopper) = std::io::pipe().unwrap();
        let key = wire::KeyRequest {
            key: "large".into(),
            ..wire::KeyRequest::default()
        };
        let key = key.encode_to_vec();
        let ask = |method: &str| {
            let mut client = grpc::Client::connect(&socket).unwrap();
            let path = format!("{SERVICE}{method}");
            client
                .call(&path, &[(wire::NAMESPACE, "ns")], &key, Duration::from_secs(60))
                .unwrap()
        };
        let (asked, walking) = (Barrier::new(WALKS + 1), AtomicUsize::new(WALKS));
        std::thread::scope(|scope| {
            scope.spawn(|| server.serve(&listener, &stop, || ()).unwrap());
            let walks: Vec<_> = (0..WALKS)
                .map(|_| {
                    scope.spawn(|| {
                        asked.wait();
                        ask("Usage");
                        walking.fetch_sub(1, Ordering::Relaxed);
                    })
                })
                .collect();
            asked.wait();
            while walking.load(Ordering::Relaxed) == WALKS {
                std::thread::yield_now();
            }
            ask("Mounts");
            let left = walking.load(Ordering::Relaxed);
            // Behind them, it would have been answered with the last.
            assert!(
                left > WALKS / 6,
                "only {left} of {WALKS} walks were still under way"
            );
            walks.into_iter().for_each(|walk| walk.join().unwrap());
            drop(stopper);
        });
    }

    #[test]
    fn the_health_of_what_is_not_served_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let service = Snapshotter::open(&dir.path().join("store"), Options::default()).unwrap();
        let server = grpc::Server::new(Arc::new(service), grpc::Limits::default()).unwrap();
        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (stop, stopper) = std::io::pipe().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| server.serve(&listener, &stop, || ()).unwrap());
            let mut client = grpc::Client::connect(&socket).unwrap();
            let mut health = |service: &str| {
                let service = service.to_owned();
                let request = wire::HealthRequest { service }.encode_to_vec();
                let answer = client.call(HEALTH, &[], &request, Duration::from_secs(30));
                answer.map_err(|error| error.status().unwrap().code)
            };
            let serving = wire::HealthResponse { status: 1 }.encode_to_vec();
            assert_eq!(health(""), Ok(vec![serving.clone()]));
            assert_eq!(
                health("containerd.services.snapshots.v1.Snapshots"),
                Ok(vec![serving])
            );
            assert_eq!(
                health("containerd.services.content.v1.Content"),
                Err(Code::NotFound)
            );
            drop(stopper);
        });
    }
}
