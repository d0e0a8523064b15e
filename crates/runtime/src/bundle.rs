//! [`Bundle`]: the directory of one container, `<state>/<namespace>/<id>`, as the OCI runtime specification
//! ("Filesystem Bundle") has it, with strata's own files beside `config.json`.
//!
//! | file | written by | what |
//! |---|---|---|
//! | `config.json` | the engine | the OCI spec: everything the launcher does |
//! | `rootfs/` | the engine | where the root file system is mounted |
//! | `strata.json` | the engine | version and feature flags of this directory |
//! | `state.json` | the supervisor | the process, told apart from a reused number |
//! | `exit.json` | the supervisor | how it ended |
//! | `healthcheck.json` | the engine | how its health is asked for, where it is ([`crate::health`]) |
//! | `health.json` | the supervisor | how it is |
//! | `control.sock` | the supervisor | requests to it ([`crate::control`]) |
//! | `lock` | the engine | empty; who starts or removes the container holds a flock on it |

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sys::Dir;

use crate::names;

/// Version of the bundle directory that this code writes.
pub const VERSION: u32 = 1;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const ROOTFS: &str = "rootfs";
pub(crate) const FORMAT: &str = "strata.json";
pub(crate) const STATE: &str = "state.json";
pub(crate) const EXIT: &str = "exit.json";
pub(crate) const HEALTHCHECK: &str = "healthcheck.json";
pub(crate) const HEALTH: &str = "health.json";
pub(crate) const CONTROL: &str = "control.sock";
const LOCK: &str = "lock";

/// So often is the removal of a bundle tried again that others get something into.
const REMOVALS: u32 = 100;

/// Most files of a bundle are shorter.
const SHORT: usize = 1 << 10;

/// No file of a bundle is longer; a longer one is not read.
const MAX_FILE: u64 = 16 << 20;

/// What went wrong with a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// A file or directory of it could not be made, read or removed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The id is no name for a directory.
    #[error("{0:?} is not a container id (letters, digits, `_`, `.`, `-`)")]
    Id(String),
    /// A file is not the JSON it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The bundle was written by a strata that knows more than this one.
    #[error("{}: written by a newer strata ({detail})", path.display())]
    Newer {
        /// The bundle.
        path: PathBuf,
        /// The version, or the features that are not known here.
        detail: String,
    },
}

/// Contents of `strata.json`: who may use this directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// [`VERSION`] of the one who made it.
    pub version: u32,
    /// Features that others may ignore.
    #[serde(default)]
    pub compat: Vec<String>,
    /// Features without which the bundle may be read, but not started or removed.
    #[serde(default)]
    pub ro_compat: Vec<String>,
    /// Features without which nothing here can be trusted.
    #[serde(default)]
    pub incompat: Vec<String>,
}

/// An open bundle.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    dir: Dir,
}

impl Bundle {
    /// Makes the bundle of the container `id` in the existing directory `parent`: closed to others (0700), with
    /// an empty `rootfs` and `strata.json`. An `id` that exists answers `AlreadyExists`.
    pub fn create(parent: &Path, id: &str) -> Result<Bundle, BundleError> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if id.is_empty() || id.starts_with('.') || !id.bytes().all(good) {
            return Err(BundleError::Id(id.to_owned()));
        }
        let path = std::path::absolute(parent.join(id)).map_err(|source| io_error(parent, source))?;
        let made = || -> io::Result<Bundle> {
            let above = Dir::open_ambient(parent)?;
            above.mkdir(id, Mode::RWXU)?;
            let dir = above.open_dir(id)?;
            let bundle = Bundle {
                path: path.clone(),
                dir,
            };
            // First: whoever takes it away locks it, also where there is no room for anything more.
            if let Err(error) = bundle.open_lock() {
                above.rmdir(id)?;
                return Err(error);
            }
            Ok(bundle)
        };
        let bundle = made().map_err(|source| io_error(&path, source))?;
        bundle.complete()?;
        Ok(bundle)
    }

    /// Makes what every bundle has. Whoever finds one must not take it for complete: its maker may be at it still.
    fn complete(&self) -> Result<(), BundleError> {
        let _lock = self.lock()?;
        match self.dir.mkdir(ROOTFS, Mode::from_raw_mode(0o755)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|source| io_error(&self.rootfs(), source))?,
        }
        if self.read_json::<Format>(FORMAT)?.is_some() {
            return Ok(());
        }
        let format = Format {
            version: VERSION,
            compat: Vec::new(),
            ro_compat: Vec::new(),
            incompat: Vec::new(),
        };
        self.write_json(FORMAT, &format)
    }

    /// Opens a bundle that is not strata's own, or whose files say themselves who wrote them, to read those alone.
    pub(crate) fn look(path: &Path) -> Result<Bundle, BundleError> {
        let path = std::path::absolute(path).map_err(|source| io_error(path, source))?;
        let dir = Dir::open_ambient(&path).map_err(|source| io_error(&path, source))?;
        Ok(Bundle { path, dir })
    }

    /// Opens a bundle. One that needs features unknown here is refused.
    pub fn open(path: &Path) -> Result<Bundle, BundleError> {
        let bundle = Bundle::look(path)?;
        // One that was never completed has no such file, and then nothing in it that we must know of.
        if let Some(format) = bundle.read_json::<Format>(FORMAT)? {
            let unknown = [&format.incompat, &format.ro_compat].into_iter().flatten();
            let unknown: Vec<&str> = unknown.map(String::as_str).collect();
            if format.version > VERSION || !unknown.is_empty() {
                let detail = format!("version {} {}", format.version, unknown.join(" "));
                return Err(BundleError::Newer {
                    path: bundle.path,
                    detail: detail.trim_end().to_owned(),
                });
            }
        }
        Ok(bundle)
    }

    /// Opens the bundle of the container `id` in the directory `parent`, or makes it.
    pub fn open_or_create(parent: &Path, id: &str) -> Result<Bundle, BundleError> {
        match Bundle::create(parent, id) {
            Err(BundleError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                let bundle = Bundle::open(&parent.join(id))?;
                bundle.complete()?;
                Ok(bundle)
            }
            other => other,
        }
    }

    /// Waits until nobody else starts or removes the container, and keeps others from it while the file is open.
    pub fn lock(&self) -> Result<File, BundleError> {
        self.locked(FlockOperation::LockExclusive)
            .map_err(|source| io_error(&self.path.join(LOCK), source))
    }

    /// As [`Bundle::lock`], but `None` where somebody starts or removes it.
    pub fn try_lock(&self) -> Result<Option<File>, BundleError> {
        match self.locked(FlockOperation::NonBlockingLockExclusive) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(source) => Err(io_error(&self.path.join(LOCK), source)),
        }
    }

    fn open_lock(&self) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW;
        self.dir.open_file(LOCK, flags, Mode::RUSR | Mode::WUSR)
    }

    fn locked(&self, how: FlockOperation) -> io::Result<File> {
        let file = self.open_lock()?;
        rustix::fs::flock(&file, how)?;
        Ok(file)
    }

    /// Absolute path of the bundle.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bundle as a directory descriptor.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The container's id: the bundle's last component.
    pub fn id(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// Where the root file system is mounted.
    pub fn rootfs(&self) -> PathBuf {
        self.path.join(ROOTFS)
    }

    /// Writes `config.json`.
    pub fn write_spec(&self, spec: &Spec) -> Result<(), BundleError> {
        self.write_json(CONFIG, spec)
    }

    /// Reads `config.json`.
    pub fn spec(&self) -> Result<Spec, BundleError> {
        let path = || self.path.join(CONFIG);
        let text = self.read(CONFIG)?;
        let text = text.ok_or_else(|| io_error(&path(), rustix::io::Errno::NOENT.into()))?;
        let known = names::parse(&text).map_err(|source| BundleError::Json { path: path(), source })?;
        Ok(known.value)
    }

    /// Writes the file `name` with `mode`: readers see the old contents or the new, never a part. Not durable:
    /// a bundle does not outlive a reboot.
    pub fn write(&self, name: &str, contents: &[u8], mode: u32) -> Result<(), BundleError> {
        let write = || -> io::Result<()> {
            // Of this thread alone: two who write one file at once both write a whole one.
            let new = format!("{name}.{}", rustix::thread::gettid());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(mode);
            let mut file = self.dir.open_file(&new, flags, mode)?;
            file.write_all(contents)?;
            // The umask is the caller's business, the mode ours.
            rustix::fs::fchmod(&file, mode)?;
            self.dir.rename(&new, &self.dir, name)
        };
        write().map_err(|source| io_error(&self.path.join(name), source))
    }

    /// Reads the file `name`; `None` where it does not exist.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BundleError> {
        let read = || -> io::Result<Vec<u8>> {
            let file: File = self.dir.open_file(name, OFlags::RDONLY, Mode::empty())?;
            // Most are short, and `ps` reads those of every container: one read that is not filled has met the end.
            let mut contents = vec![0; SHORT];
            let length = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut *contents))?;
            contents.truncate(length);
            if length == SHORT {
                file.take(MAX_FILE - SHORT as u64).read_to_end(&mut contents)?;
            }
            Ok(contents)
        };
        match read() {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error(&self.path.join(name), source)),
        }
    }

    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), BundleError> {
        let text = serde_json::to_vec(value).map_err(|source| BundleError::Json {
            path: self.path.join(name),
            source,
        })?;
        self.write(name, &text, 0o600)
    }

    pub(crate) fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, BundleError> {
        let Some(text) = self.read(name)? else {
            return Ok(None);
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| BundleError::Json {
                path: self.path.join(name),
                source,
            })
    }

    /// Removes the bundle and everything in it. The root file system must have been detached before: what is
    /// mounted is never entered, and answers `EBUSY`.
    pub fn remove(self) -> Result<(), BundleError> {
        let remove = || -> io::Result<()> {
            let name = self.path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
            let parent = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
            let parent = Dir::open_ambient(parent)?;
            let mut tries = 0;
            loop {
                match parent.remove_tree(name) {
                    // Somebody else who is to remove it has just made the lock anew, to wait for it.
                    Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && tries < REMOVALS => {
                        tries += 1
                    }
                    other => return other,
                }
            }
        };
        remove().map_err(|source| io_error(&self.path, source))
    }
}

fn io_error(path: &Path, source: io::Error) -> BundleError {
    BundleError::Io {
        path: path.to_path_buf(),
        source,
    }
}

/// Writes the number of a process into a file that somebody named: whoever waits for the file finds the whole number in
/// it.
pub(crate) fn write_pid(path: &Path, pid: i32) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let above = match path.parent() {
        Some(above) if above != Path::new("") => above,
        _ => Path::new("."),
    };
    let dir = Dir::open_ambient(above)?;
    let new = format!(".{}", name.display());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let mut file: File = dir.open_file(&new, flags, Mode::from_raw_mode(0o644))?;
    write!(file, "{pid}")?;
    dir.rename(&new, &dir, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_written_read_removed() {
        let temp = tempfile::tempdir().unwrap();
        let bundle = Bundle::create(temp.path(), "abc").unwrap();
        assert_eq!(bundle.id(), "abc");
        assert!(matches!(
            Bundle::create(temp.path(), "abc"),
            Err(BundleError::Io { .. })
        ));
        let spec = Spec::default();
        bundle.write_spec(&spec).unwrap();
        assert_eq!(Bundle::open(bundle.path()).unwrap().spec().unwrap(), spec);
        assert_eq!(bundle.read("nothing").unwrap(), None);
        bundle.write("hosts", b"127.0.0.1", 0o644).unwrap();
        assert_eq!(bundle.read("hosts").unwrap().unwrap(), b"127.0.0.1");
        let path = bundle.path().to_path_buf();
        bundle.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn one_that_somebody_else_has_only_begun_is_completed() {
        let temp = tempfile::tempdir().unwrap();
        for _ in 0..50 {
            let (parent, barrier) = (temp.path(), std::sync::Barrier::new(4));
            let open = || {
                barrier.wait();
                let bundle = Bundle::open_or_create(parent, "abc").unwrap();
                let _lock = bundle.lock().unwrap();
                assert!(bundle.rootfs().is_dir());
                assert!(bundle.read_json::<Format>(FORMAT).unwrap().is_some());
            };
            std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(open))));
            Bundle::open(&parent.join("abc")).unwrap().remove().unwrap();
        }
    }

    #[test]
    fn ids_are_names() {
        let temp = tempfile::tempdir().unwrap();
        for bad in ["", "..", "a/b", "a b", ".hidden", "ä"] {
            assert!(
                matches!(Bundle::create(temp.path(), bad), Err(BundleError::Id(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_newer_one_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let bundle = Bundle::create(temp.path(), "abc").unwrap();
        for text in [r#"{"version":2}"#, r#"{"version":1,"incompat":["x"]}"#] {
            bundle.write(FORMAT, text.as_bytes(), 0o600).unwrap();
            assert!(
                matches!(Bundle::open(bundle.path()), Err(BundleError::Newer { .. })),
                "{text}"
            );
        }
        bundle
            .write(FORMAT, br#"{"version":1,"compat":["x"]}"#, 0o600)
            .unwrap();
        Bundle::open(bundle.path()).unwrap();
    }
}
