//! [`Sandbox`]: the network namespace of one container, what it is attached to, and the way back to nothing.
//!
//! It lies in the container's bundle, which goes with the machine's state as everything of it does:
//!
//! | file | what |
//! |---|---|
//! | `netns` | the namespace, bound here so that it outlives who made it, and is the same after each restart |
//! | `network.json` | the [`Record`]: each attachment, written before anything is done for it |
//! | `network.lock` | empty; who attaches or detaches holds a flock on it |
//! | `pasta.pid` | the number of the [`pasta`] that serves it, in its own words |
//!
//! Whoever finds a record can undo all that it names, whether that was done, half done, or not begun: a plug-in's DEL
//! does not mind. Plug-ins inherit the lock, and what they start does too: who waits for it has waited for the last of them,
//! even when the one who called them was killed meanwhile.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime::bundle::{Bundle, BundleError};
use runtime::state::ProcessId;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::{Errno, FdFlags};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sys::process::namespaces;

use crate::cni::{Call, CniError, Made, Plugins};
use crate::conflist::{self, Asked};
use crate::definition::Network;
use crate::leases;
use crate::pasta::{self, PastaError};
use crate::ports::Mapping;

/// The namespace's name in the bundle.
pub const NAMESPACE: &str = "netns";
const RECORD: &str = "network.json";
const LOCK: &str = "network.lock";
const PASTA: &str = "pasta.pid";

/// Plug-ins that were left running by one who was killed may take as long as any.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a network namespace lies on: `NSFS_MAGIC` of linux/magic.h.
const NSFS: u64 = 0x6e73_6673;

/// What is kept of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where the plug-ins lie that were called.
    pub plugins: Plugins,
    /// Host ports that lead to it.
    #[serde(default)]
    pub ports: Vec<Mapping>,
    /// In the order in which they were made.
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// The [`pasta`] that serves it, an ordinary user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pasta: Option<ProcessId>,
}

/// One interface of a container in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The network's id.
    pub network_id: String,
    /// The interface.
    pub interface: String,
    /// Other names of the container in this network.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What the plug-ins were called with.
    pub list: Value,
    /// What those that ask for it were told.
    pub capabilities: Value,
    /// What those have made that are done.
    #[serde(default)]
    pub result: Option<Value>,
}

impl Attachment {
    /// What was made.
    pub fn made(&self) -> Made {
        let result = self.result.as_ref();
        result
            .and_then(|result| Made::deserialize(result).ok())
            .unwrap_or_default()
    }

    /// The container's addresses in the network.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let made = self.made();
        made.ips.iter().filter_map(|ip| Some(ip.parts()?.0)).collect()
    }

    /// The hardware address of the interface.
    pub fn mac(&self) -> Option<String> {
        let mut interfaces = self.made().interfaces.into_iter();
        let own = interfaces.find(|one| one.name == self.interface && !one.sandbox.is_empty());
        own.map(|one| one.mac).filter(|mac| !mac.is_empty())
    }
}

/// What a container asks of one network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Other names of it there.
    pub aliases: &'a [String],
    /// What it asks of the plug-ins.
    pub asked: Asked<'a>,
}

/// Why a container could not be attached, or something of it not taken back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A file of the bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The record is none.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The namespace.
    #[error("{what} the network namespace {}: {source}", path.display())]
    Namespace {
        /// What was attempted.
        what: &'static str,
        /// Its file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// A plug-in.
    #[error("network {network}: {source}")]
    Cni {
        /// The network.
        network: String,
        /// What went wrong.
        source: CniError,
    },
    /// An ordinary user's network.
    #[error("network pasta: {0}")]
    Pasta(#[from] PastaError),
    /// Somebody else's plug-in does not end.
    #[error("{} is locked by a plug-in that does not end", .0.display())]
    Locked(PathBuf),
    /// It has one already.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
}

impl SandboxError {
    /// A plug-in is not there any more: nobody can undo what it did.
    pub fn is_of_missing(&self) -> bool {
        matches!(
            self,
            SandboxError::Cni {
                source: CniError::Missing { .. },
                ..
            }
        )
    }
}

/// What a bundle records; `None` where its container is in no network.
///
/// # Errors
/// A record that cannot be read.
pub fn read(bundle: &Bundle) -> Result<Option<Record>, SandboxError> {
    let Some(text) = bundle.read(RECORD)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| SandboxError::Json {
            path: bundle.path().join(RECORD),
            source,
        })
}

/// A container's namespace and attachments. While this lives, nobody else changes them.
#[derive(Debug)]
pub struct Sandbox<'a> {
    bundle: &'a Bundle,
    record: Record,
    _lock: File,
}

impl<'a> Sandbox<'a> {
    /// Makes the namespace, with loopback and nothing else in it.
    ///
    /// # Errors
    /// See [`SandboxError`]; then [`Sandbox::open`] finds what there is to be taken back.
    pub fn create(
        bundle: &'a Bundle,
        plugins: &Plugins,
        ports: &[Mapping],
    ) -> Result<Sandbox<'a>, SandboxError> {
        let lock = match lock(bundle, OFlags::CREATE)? {
            Some(lock) => lock,
            None => return Err(SandboxError::Locked(bundle.path().join(LOCK))),
        };
        if read(bundle)?.is_some() {
            return Err(SandboxError::Exists(bundle.path().join(RECORD)));
        }
        let record = Record {
            plugins: plugins.clone(),
            ports: ports.to_vec(),
            attachments: Vec::new(),
            pasta: None,
        };
        let sandbox = Sandbox {
            bundle,
            record,
            _lock: lock,
        };
        sandbox.save()?;
        sandbox.make_namespace()?;
        Ok(sandbox)
    }

    /// Has pasta serve it, and publish its ports.
    ///
    /// # Errors
    /// [`SandboxError::Pasta`]; what cannot be written down.
    pub fn serve_by_pasta(&mut self, program: &Path) -> Result<(), SandboxError> {
        // It stays, and the lock does not stay with it.
        let kept = rustix::io::fcntl_setfd(&self._lock, FdFlags::CLOEXEC);
        kept.map_err(|error| SandboxError::Namespace {
            what: "keeping the lock on",
            path: self.bundle.path().join(LOCK),
            source: error.into(),
        })?;
        let pid_file = self.bundle.path().join(PASTA);
        let process = pasta::start(program, &self.namespace(), &pid_file, &self.record.ports)?;
        self.record.pasta = Some(process);
        self.save()
    }

    /// The one of a bundle; `None` where its container is in no network.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn open(bundle: &'a Bundle) -> Result<Option<Sandbox<'a>>, SandboxError> {
        let Some(lock) = lock(bundle, OFlags::empty())? else {
            return Ok(None);
        };
        Ok(read(bundle)?.map(|record| Sandbox {
            bundle,
            record,
            _lock: lock,
        }))
    }

    /// What it is attached to.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Attaches the container to a network, by the next free `ethN`. Addresses that are taken are kept track of in
    /// `addresses`.
    ///
    /// # Errors
    /// [`SandboxError::Cni`]; then nothing of the attachment is left, unless a plug-in fails to undo it too.
    pub fn attach(
        &mut self,
        network: &Network,
        addresses: &Path,
        wanted: Wanted<'_>,
    ) -> Result<(), SandboxError> {
        let taken = |name: &String| self.record.attachments.iter().any(|one| one.interface == *name);
        // There are as many names as numbers, and fewer attachments.
        let interface = (0..)
            .map(|n| format!("eth{n}"))
            .find(|name| !taken(name))
            .unwrap_or_default();
        self.record.attachments.push(Attachment {
            network: network.name.clone(),
            network_id: network.id.clone(),
            interface,
            aliases: wanted.aliases.to_vec(),
            list: conflist::compose(network, addresses, wanted.asked),
            capabilities: conflist::capabilities(wanted.asked),
            result: None,
        });
        self.save()?;
        let last = self.record.attachments.len() - 1;
        let added = self.add(last);
        if added.is_err() && self.undo(last).is_ok() {
            self.record.attachments.pop();
            self.save()?;
        }
        added
    }

    /// Calls the plug-ins of an attachment, and records after each what they have made: whoever comes after a kill needs it
    /// to undo that.
    fn add(&mut self, place: usize) -> Result<(), SandboxError> {
        let one = self.record.attachments[place].clone();
        let (bundle, path) = (self.bundle, self.namespace());
        let plugins = self.record.plugins.clone();
        let added = call(bundle, &path, &plugins, &one).add(|made| {
            self.record.attachments[place].result = Some(made.clone());
            self.save().map_err(Failure::Record)
        });
        added.map_err(|failure| match failure {
            Failure::Record(error) => error,
            Failure::Cni(source) => SandboxError::Cni {
                network: one.network.clone(),
                source,
            },
        })
    }

    /// Detaches the container from a network; false where it is not in it.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn detach(&mut self, network: &str) -> Result<bool, SandboxError> {
        let place = self
            .record
            .attachments
            .iter()
            .position(|one| one.network == network);
        let Some(place) = place else { return Ok(false) };
        self.undo(place)?;
        self.record.attachments.remove(place);
        self.save()?;
        Ok(true)
    }

    /// Detaches from every network and takes the namespace away. What a plug-in fails to undo stays on record, for the
    /// next who tries; all else is done.
    ///
    /// # Errors
    /// The first of several.
    pub fn release(mut self) -> Result<(), SandboxError> {
        let mut first = Ok(());
        for place in (0..self.record.attachments.len()).rev() {
            match self.undo(place) {
                Ok(()) => drop(self.record.attachments.remove(place)),
                Err(error) => first = first.and(Err(error)),
            }
        }
        if let Some(process) = &self.record.pasta {
            pasta::stop(process).map_err(|source| SandboxError::Namespace {
                what: "ending the pasta that serves",
                path: self.namespace(),
                source,
            })?;
        }
        let path = self.namespace();
        let failed = |what| {
            let path = path.clone();
            move |source| SandboxError::Namespace { what, path, source }
        };
        match sys::mount::detach_at(&path) {
            Ok(()) => {}
            // Not bound, or not there.
            Err(error) if is(&error, Errno::INVAL) || is(&error, Errno::NOENT) => {}
            Err(error) => return Err(failed("unmounting")(error)),
        }
        self.unlink(NAMESPACE).map_err(failed("removing"))?;
        self.unlink(PASTA).map_err(failed("forgetting"))?;
        first?;
        self.unlink(RECORD).map_err(failed("forgetting"))
    }

    /// Forgets what could not be [released](Sandbox::release), and frees the addresses, of which the plug-in `host-local` keeps
    /// track in `addresses`. Rules of the packet filter stay.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn abandon(self, addresses: &Path) -> Result<(), SandboxError> {
        for one in &self.record.attachments {
            let place = addresses.join(&one.network);
            leases::free(&place, self.bundle.id()).map_err(|source| SandboxError::Namespace {
                what: "freeing addresses in",
                path: place.clone(),
                source,
            })?;
        }
        let failed = |source| SandboxError::Namespace {
            what: "forgetting",
            path: self.bundle.path().join(RECORD),
            source,
        };
        self.unlink(RECORD).map_err(failed)
    }

    /// Whether everything is as it was made.
    ///
    /// # Errors
    /// [`SandboxError::Cni`] names the first that is not.
    pub fn check(&self) -> Result<(), SandboxError> {
        for (place, one) in self.record.attachments.iter().enumerate() {
            let result = one.result.clone().unwrap_or_default();
            self.call(place, &self.namespace())
                .check(&result)
                .map_err(|source| SandboxError::Cni {
                    network: one.network.clone(),
                    source,
                })?;
        }
        Ok(())
    }

    fn undo(&self, place: usize) -> Result<(), SandboxError> {
        let one = &self.record.attachments[place];
        self.call(place, &self.namespace())
            .del(one.result.as_ref())
            .map_err(|source| SandboxError::Cni {
                network: one.network.clone(),
                source,
            })
    }

    fn call<'b>(&'b self, place: usize, namespace: &'b Path) -> Call<'b> {
        call(
            self.bundle,
            namespace,
            &self.record.plugins,
            &self.record.attachments[place],
        )
    }

    fn namespace(&self) -> PathBuf {
        self.bundle.path().join(NAMESPACE)
    }

    fn save(&self) -> Result<(), SandboxError> {
        let text = serde_json::to_vec(&self.record).map_err(|source| SandboxError::Json {
            path: self.bundle.path().join(RECORD),
            source,
        })?;
        Ok(self.bundle.write(RECORD, &text, 0o600)?)
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        match self.bundle.dir().unlink(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// A thread enters a new namespace and leaves it bound.
    fn make_namespace(&self) -> Result<(), SandboxError> {
        let path = self.namespace();
        let make = || -> io::Result<()> {
            self.bundle.dir().create_new(NAMESPACE, Mode::RUSR)?;
            let target = path.clone();
            let thread = std::thread::Builder::new().spawn(move || -> io::Result<()> {
                sys::process::unshare(namespaces::NETWORK)?;
                sys::net::loopback_up()?;
                Ok(rustix::mount::mount_bind("/proc/thread-self/ns/net", &target)?)
            })?;
            thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        };
        make().map_err(|source| SandboxError::Namespace {
            what: "making",
            path: path.clone(),
            source,
        })
    }
}

/// Why plug-ins were not all called.
enum Failure {
    Cni(CniError),
    Record(SandboxError),
}

impl From<CniError> for Failure {
    fn from(error: CniError) -> Failure {
        Failure::Cni(error)
    }
}

fn call<'a>(bundle: &'a Bundle, namespace: &'a Path, plugins: &'a Plugins, one: &'a Attachment) -> Call<'a> {
    let is_there = rustix::fs::statfs(namespace).is_ok_and(|found| found.f_type as u64 == NSFS);
    Call {
        plugins,
        container: bundle.id(),
        namespace: is_there.then_some(namespace),
        interface: &one.interface,
        list: &one.list,
        capabilities: &one.capabilities,
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// Waits until nobody attaches or detaches the container; `None` where it never was in a network.
fn lock(bundle: &Bundle, how: OFlags) -> Result<Option<File>, SandboxError> {
    let path = || bundle.path().join(LOCK);
    let io = |source| SandboxError::Namespace {
        what: "locking",
        path: path(),
        source,
    };
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | how;
    // The kernel takes no mode where nothing can be made.
    let mode = if how.contains(OFlags::CREATE) {
        Mode::RUSR | Mode::WUSR
    } else {
        Mode::empty()
    };
    let file = match bundle.dir().open_file(LOCK, flags, mode) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io)?,
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5))
            }
            Err(Errno::WOULDBLOCK) => return Err(SandboxError::Locked(path())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(io(error.into())),
        }
    }
    // The plug-ins', and of what they start. Nothing else is started while a sandbox is open.
    rustix::io::fcntl_setfd(&file, FdFlags::empty()).map_err(|error| io(error.into()))?;
    Ok(Some(file))
}
