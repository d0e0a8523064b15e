//! The service of snapshots, asked over its socket as containerd asks it.

use std::cell::RefCell;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ::snapshotter::wire::{self, KeyRequest, NAMESPACE, SERVICE};
use grpc::{Client, ClientError, Code, Status};
use prost::Message;
use store::{Info, Kind, Labels, SnapshotError, Usage};

use crate::Strata;
use crate::snapshotter::Snapshotter;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// `strata serve snapshotter`, on a store of a test's. Killed when the value goes.
pub struct Served {
    child: Child,
    /// Its socket.
    pub socket: PathBuf,
}

impl Served {
    /// Starts it, with further flags, and waits until it answers.
    pub fn start(strata: &Strata, flags: &[&str]) -> Served {
        Served::at(strata, &strata.dir().join("snapshotter.sock"), flags)
    }

    /// As [`Served::start`], at a socket of one's choice.
    pub fn at(strata: &Strata, socket: &Path, flags: &[&str]) -> Served {
        let mut command = strata.command(["serve", "snapshotter", "--address"]);
        command.arg(socket).args(flags);
        Served::run(command, socket)
    }

    /// Starts a command that serves at `socket`, and waits until it answers.
    pub fn run(mut command: Command, socket: &Path) -> Served {
        let child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut served = Served {
            child,
            socket: socket.to_owned(),
        };
        let end = Instant::now() + PATIENCE;
        while served.client("any").list(&[]).is_err() {
            if let Some(status) = served.child.try_wait().unwrap() {
                let mut told = String::new();
                let _ = served.child.stderr.take().unwrap().read_to_string(&mut told);
                panic!("the server ended with {status}: {told}");
            }
            assert!(Instant::now() < end, "the server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        served
    }

    /// A client in a namespace; of an empty one, in none.
    pub fn client(&self, ns: &str) -> Remote {
        Remote::new(&self.socket, ns)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Asks it to end by SIGTERM; its exit code.
    pub fn stop(&mut self) -> i32 {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status
                    .code()
                    .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            }
            assert!(Instant::now() < end, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A snapshotter at the other end of a socket.
pub struct Remote {
    socket: PathBuf,
    ns: String,
    name: String,
    client: RefCell<Option<Client>>,
}

impl Remote {
    /// One that is strata's.
    pub fn new(socket: &Path, ns: &str) -> Remote {
        Remote::named(socket, ns, "strata")
    }

    /// The snapshotter of this name, of those that a containerd at `socket` has.
    pub fn named(socket: &Path, ns: &str, name: &str) -> Remote {
        Remote {
            socket: socket.to_owned(),
            ns: ns.to_owned(),
            name: name.to_owned(),
            client: RefCell::new(None),
        }
    }

    /// Makes a call; connects where that is needed, as after a failure.
    pub fn call(&self, method: &str, message: &impl Message) -> Result<Vec<Vec<u8>>, ClientError> {
        let mut client = self.client.borrow_mut();
        let mut connected = match client.take() {
            Some(connected) => connected,
            None => Client::connect(&self.socket)?,
        };
        let headers = [(NAMESPACE, self.ns.as_str())];
        let headers = if self.ns.is_empty() { &[][..] } else { &headers };
        let path = format!("{SERVICE}{method}");
        let answer = connected.call(&path, headers, &message.encode_to_vec(), PATIENCE);
        if !matches!(answer, Err(ClientError::Io(_) | ClientError::Protocol(_))) {
            *client = Some(connected);
        }
        answer
    }

    fn ask<M: Message + Default>(&self, method: &str, message: &impl Message) -> Result<M, SnapshotError> {
        let answer = self.call(method, message).map_err(error)?;
        Ok(M::decode(&answer[0][..]).unwrap())
    }

    fn key(&self, key: &str) -> KeyRequest {
        KeyRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
        }
    }

    fn make(
        &self,
        method: &str,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<mount::Mount>, SnapshotError> {
        let request = wire::PrepareRequest {
            snapshotter: self.name.clone(),
            key: key.to_owned(),
            parent: parent.unwrap_or_default().to_owned(),
            labels: labels.clone(),
        };
        self.ask(method, &request).map(mounts)
    }

    /// The status that a call fails with.
    pub fn status(&self, method: &str, message: &impl Message) -> Status {
        match self.call(method, message) {
            Err(ClientError::Status(status)) => status,
            other => panic!("{method}: {other:?}"),
        }
    }

    /// Lists what these filters let pass.
    pub fn list(&self, filters: &[&str]) -> Result<Vec<Info>, ClientError> {
        let request = wire::ListRequest {
            snapshotter: self.name.clone(),
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
        };
        let pages = self.call("List", &request)?;
        let pages = pages
            .iter()
            .map(|page| wire::ListResponse::decode(&page[..]).unwrap());
        Ok(pages.flat_map(|page| page.info).map(info).collect())
    }
}

impl Snapshotter for Remote {
    fn prepare(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<mount::Mount>, SnapshotError> {
        self.make("Prepare", key, parent, labels)
    }

    fn view(
        &self,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<mount::Mount>, SnapshotError> {
        self.make("View", key, parent, labels)
    }

    fn mounts(&self, key: &str) -> Result<Vec<mount::Mount>, SnapshotError> {
        self.ask("Mounts", &self.key(key)).map(mounts)
    }

    fn commit(
        &self,
        name: &str,
        key: &str,
        labels: &Labels,
        parent: Option<&str>,
    ) -> Result<(), SnapshotError> {
        let request = wire::CommitRequest {
            snapshotter: self.name.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: labels.clone(),
            parent: parent.unwrap_or_default().to_owned(),
        };
        self.ask::<wire::Empty>("Commit", &request).map(drop)
    }

    fn remove(&self, key: &str) -> Result<(), SnapshotError> {
        self.ask::<wire::Empty>("Remove", &self.key(key)).map(drop)
    }

    fn stat(&self, key: &str) -> Result<Info, SnapshotError> {
        let answer: wire::InfoResponse = self.ask("Stat", &self.key(key))?;
        Ok(info(answer.info.unwrap()))
    }

    fn update(&self, key: &str, labels: &Labels, fields: &[&str]) -> Result<Info, SnapshotError> {
        let request = wire::UpdateRequest {
            snapshotter: self.name.clone(),
            info: Some(wire::Info {
                name: key.to_owned(),
                labels: labels.clone(),
                ..wire::Info::default()
            }),
            update_mask: Some(wire::FieldMask {
                paths: fields.iter().map(|field| (*field).to_owned()).collect(),
            }),
        };
        let answer: wire::InfoResponse = self.ask("Update", &request)?;
        Ok(info(answer.info.unwrap()))
    }

    fn walk(&self, visit: &mut dyn FnMut(Info)) -> Result<(), SnapshotError> {
        self.list(&[]).map_err(error)?.into_iter().for_each(visit);
        Ok(())
    }

    /// The wire tells no apparent size.
    fn usage(&self, key: &str) -> Result<Usage, SnapshotError> {
        let answer: wire::UsageResponse = self.ask("Usage", &self.key(key))?;
        Ok(Usage {
            bytes: answer.size as u64,
            apparent: 0,
            inodes: answer.inodes as u64,
        })
    }

    fn cleanup(&self) -> Result<(), SnapshotError> {
        let snapshotter = self.name.clone();
        self.ask::<wire::Empty>("Cleanup", &wire::CleanupRequest { snapshotter })
            .map(drop)
    }
}

fn mounts(answer: wire::MountsResponse) -> Vec<mount::Mount> {
    let mounts = answer.mounts.into_iter();
    mounts
        .map(|mount| {
            assert_eq!(mount.target, "");
            mount::Mount {
                kind: mount.kind,
                source: mount.source,
                options: mount.options,
            }
        })
        .collect()
}

fn info(info: wire::Info) -> Info {
    let time = |time: Option<wire::Timestamp>| {
        let time = time.expect("a time");
        jiff::Timestamp::new(time.seconds, time.nanos).unwrap()
    };
    Info {
        kind: match info.kind() {
            wire::Kind::View => Kind::View,
            wire::Kind::Active => Kind::Active,
            wire::Kind::Committed => Kind::Committed,
            wire::Kind::Unknown => panic!("a snapshot without a kind"),
        },
        key: info.name,
        parent: (!info.parent.is_empty()).then_some(info.parent),
        created: time(info.created_at),
        updated: time(info.updated_at),
        labels: info.labels,
        n: None,
        held: false,
    }
}

/// What the store would have said.
fn error(error: ClientError) -> SnapshotError {
    let ClientError::Status(Status { code, message }) = error else {
        panic!("{error}");
    };
    let key = String::new();
    match code {
        Code::NotFound => SnapshotError::NotFound(message),
        Code::AlreadyExists => SnapshotError::AlreadyExists(message),
        Code::InvalidArgument => SnapshotError::InvalidArgument { key, why: message },
        Code::FailedPrecondition => SnapshotError::FailedPrecondition { key, why: message },
        _ => panic!("{code:?}: {message}"),
    }
}
