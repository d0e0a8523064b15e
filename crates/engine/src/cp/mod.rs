//! `cp`: files between containers, this machine, and streams of tar.
//!
//! Whatever is copied goes as a tar from the one side to the other, so that a stream is one of the sides and nothing
//! special. Each side is a root directory (`root`) with a path in it, which is resolved as whoever has that root would;
//! from there on only descriptors are used, and no link is followed. Docker's rules say what a path means (`rules`).

mod root;
mod rules;

use std::ffi::OsString;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use image::extract::{ExtractError, Owner, extract};
use image::pack::{PackError, What, pack_entry};
use image::progress::{Progress, Silent};
use mount::MountError;
use runtime::bundle::BundleError;
use rustix::fs::{Gid, Uid};
use store::{ContainerError, Fault, SnapshotError};
use sys::Dir;
use sys::creds::Maker;
use sys::ids::Ids;

use crate::Engine;
use crate::run::VolumesError;
use crate::told::Told;

use self::root::{Root, Seen};
use self::rules::Destination;

/// One end of a copy.
pub enum End<'a> {
    /// A path in a container; relative ones begin at its root.
    Container {
        /// Its name or id.
        name: &'a str,
        /// The path.
        path: &'a Path,
    },
    /// A path of this machine.
    Host(&'a Path),
    /// A tar that is read, for the source.
    Input(&'a mut (dyn Read + Send)),
    /// A tar that is written, for the destination.
    Output(&'a mut dyn Write),
}

impl End<'_> {
    /// What progress calls it.
    fn shown(&self) -> String {
        match self {
            End::Container { name, path } => format!("{name}:{}", path.display()),
            End::Host(path) => path.display().to_string(),
            End::Input(_) | End::Output(_) => "the stream".to_owned(),
        }
    }
}

/// How it is copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Owners stay; otherwise what is copied belongs to root in a container and to the caller on this machine.
    pub archive: bool,
    /// A symbolic link that the source names is followed.
    pub follow: bool,
}

/// Why nothing was copied, or not everything.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// No such container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its root could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Its volumes.
    #[error(transparent)]
    Volumes(#[from] Box<VolumesError>),
    /// Another mount writes to it, or another copy goes on for long.
    #[error("container {0} is in use by another mount")]
    InUse(String),
    /// There is nothing at the path.
    #[error("there is no {}", path.display())]
    Missing {
        /// The path, as it was given.
        path: PathBuf,
    },
    /// The path ends as a directory's, and is none.
    #[error("{} is no directory", path.display())]
    NoDirectory {
        /// The path, as it was given.
        path: PathBuf,
    },
    /// A directory cannot be copied to a file.
    #[error("a directory cannot be copied to the file {}", path.display())]
    ToFile {
        /// The path, as it was given.
        path: PathBuf,
    },
    /// A path cannot be looked at.
    #[error("{}: {source}", path.display())]
    Path {
        /// The path, as it was given.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Two streams, or the wrong one.
    #[error("a stream can be the source or the destination, and the other end is a container or a path")]
    Streams,
    /// What is copied cannot be read.
    #[error("reading: {0}")]
    Read(#[source] PackError),
    /// What is copied cannot be written.
    #[error("writing: {0}")]
    Write(#[source] ExtractError),
    /// There is no pipe.
    #[error("copying cannot begin: {0}")]
    Begin(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// What is read, and what it is to be called.
struct Source {
    what: Seen,
    called: OsString,
    /// Of the container that it is in, where that has others than the machine.
    ids: Option<Ids>,
}

impl Source {
    fn pack(&self, out: impl Write) -> Result<(), PackError> {
        let ids = self.ids.as_ref();
        match &self.what {
            Seen::Dir(dir) => pack_entry(&What::Dir(dir), &self.called, ids, out),
            Seen::File { dir, name } => pack_entry(&What::Entry(dir, name), &self.called, ids, out),
            Seen::Missing { .. } => Ok(()),
        }
    }
}

impl Engine {
    /// Copies a file or a directory, by docker's rules for what source and destination mean; answers how many bytes of
    /// files were written. A container may run or not; what of this machine is mounted in it is seen in any case. `progress`
    /// hears how much went over.
    ///
    /// # Errors
    /// See [`CopyError`]; what was copied before stays.
    pub fn cp(
        &self,
        from: End<'_>,
        to: End<'_>,
        options: Options,
        progress: &dyn Progress,
    ) -> Result<u64, CopyError> {
        let what = from.shown();
        match (from, to) {
            (End::Input(stream), to) => {
                let (root, path) = self.root(&to)?;
                match root.look(&path, true)? {
                    Seen::Dir(dir) => {
                        let stream = Told::new(stream, &what, progress);
                        let stream = BufReader::with_capacity(PIPE / 4, stream);
                        let owner = owner(&to, options);
                        let made = as_root_of(root.ids.as_ref(), || {
                            extract(stream, &dir, owner, root.ids.as_ref())
                        });
                        made.map_err(CopyError::Begin)?.map_err(CopyError::Write)
                    }
                    Seen::File { .. } => Err(CopyError::NoDirectory { path }),
                    Seen::Missing { .. } => Err(CopyError::Missing { path }),
                }
            }
            (from, End::Output(stream)) => {
                let (root, path) = self.root(&from)?;
                let source = source(&root, &path, options)?;
                let out = BufWriter::with_capacity(PIPE / 4, Told::new(stream, &what, progress));
                source.pack(out).map_err(CopyError::Read).map(|()| 0)
            }
            (from, to) => {
                let (from_root, from_path) = self.root(&from)?;
                let source = source(&from_root, &from_path, options)?;
                // Both in one container that does not run are one mount.
                let same = match (&from, &to) {
                    (End::Container { name: from, .. }, End::Container { name: to, .. }) => {
                        let id = |name| Ok::<_, CopyError>(self.store.find_container(self.ns(), name)?.id);
                        id(from)? == id(to)?
                    }
                    _ => false,
                };
                let (other, to_path) = match (same, &to) {
                    (true, End::Container { path, .. }) => (None, path.to_path_buf()),
                    _ => self.root(&to).map(|(root, path)| (Some(root), path))?,
                };
                let to_root = other.as_ref().unwrap_or(&from_root);
                let target = Destination::of(&source.what, &from_path, to_root, &to_path)?;
                let source = Source {
                    called: target.called,
                    ..source
                };
                let told = (&*what, progress);
                through(
                    &source,
                    &target.into,
                    owner(&to, options),
                    to_root.ids.as_ref(),
                    told,
                )
            }
        }
    }
}

/// Bytes that the pipe between both sides holds.
const PIPE: usize = 1 << 20;

/// Who is to own what is copied.
fn owner(to: &End<'_>, options: Options) -> Owner {
    match to {
        _ if options.archive => Owner::AsPacked,
        End::Host(_) => {
            let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
            Owner::Fixed(uid.as_raw(), gid.as_raw())
        }
        _ => Owner::Fixed(0, 0),
    }
}

/// What is copied, by its own name.
fn source(root: &Root, path: &Path, options: Options) -> Result<Source, CopyError> {
    let as_dir = rules::says_directory(path);
    let what = root.look(path, options.follow || as_dir)?;
    let called = match &what {
        Seen::Missing { .. } => {
            return Err(CopyError::Missing {
                path: path.to_owned(),
            });
        }
        Seen::File { .. } if as_dir => {
            return Err(CopyError::NoDirectory {
                path: path.to_owned(),
            });
        }
        Seen::File { name, .. } => rules::base_name(path).unwrap_or_else(|| name.clone()),
        Seen::Dir(_) if rules::says_contents(path) => ".".into(),
        // Of a root there is no name: what is in it is copied.
        Seen::Dir(_) => rules::base_name(path).unwrap_or_else(|| ".".into()),
    };
    let ids = root.ids.clone();
    Ok(Source { what, called, ids })
}

/// All that is in a directory, and its own attributes, into an empty one. Owners are as a container with these `ids` sees
/// them.
pub(crate) fn copy_whole(from: &Dir, to: &Dir, ids: Option<&Ids>) -> Result<(), CopyError> {
    let dir = from.open_dir(".").map_err(CopyError::Begin)?;
    let source = Source {
        what: Seen::Dir(dir),
        called: ".".into(),
        ids: ids.cloned(),
    };
    through(&source, to, Owner::AsPacked, None, ("", &Silent))?;
    sys::attributes::copy(from, to, |name| name != "security.selinux").map_err(CopyError::Begin)?;
    let Some(ids) = ids else { return Ok(()) };
    let stat = from.metadata().map_err(CopyError::Begin)?;
    let inside = ids.users.inside(stat.st_uid).zip(ids.groups.inside(stat.st_gid));
    let (uid, gid) = inside.unwrap_or_default();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::fchown(to, Some(uid), Some(gid)).map_err(|errno| CopyError::Begin(errno.into()))
}

/// Does something as root of a user namespace with these ids: where files belong to those alone, nobody else can make any.
fn as_root_of<T: Send>(ids: Option<&Ids>, what: impl FnOnce() -> T + Send) -> io::Result<T> {
    let root = ids.and_then(|ids| ids.users.outside(0).zip(ids.groups.outside(0)));
    let Some((uid, gid)) = root else { return Ok(what()) };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _maker = Maker::assume(uid, gid, None, 0)?;
            Ok(what())
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// From one directory into another, which is that of a container with these `ids`. What is copied is told of by a name.
fn through(
    source: &Source,
    into: &Dir,
    owner: Owner,
    ids: Option<&Ids>,
    (what, progress): (&str, &dyn Progress),
) -> Result<u64, CopyError> {
    let (from, to) = io::pipe().map_err(CopyError::Begin)?;
    let _ = rustix::pipe::fcntl_setpipe_size(&to, PIPE);
    let (packed, extracted) = std::thread::scope(|scope| {
        let to = BufWriter::with_capacity(PIPE / 4, Told::new(to, what, progress));
        let packer = scope.spawn(move || source.pack(to));
        let from = BufReader::with_capacity(PIPE / 4, from);
        let extracted = as_root_of(ids, || extract(from, into, owner, ids));
        let packed = packer
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (packed, extracted)
    });
    match (packed, extracted.map_err(CopyError::Begin)?) {
        (Ok(()), Ok(bytes)) => Ok(bytes),
        // A tar that breaks off is the packer's failure, one that nobody reads on the other's.
        (Err(PackError::Write(_)) | Ok(()), Err(error)) => Err(CopyError::Write(error)),
        (Err(error), _) => Err(CopyError::Read(error)),
    }
}
