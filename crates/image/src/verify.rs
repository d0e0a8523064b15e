//! A layer's directory held against what its tar said.
//!
//! [`glance`] looks at each file without reading it; [`check`] reads each and compares it with its digest in the record.
//! Neither sees owners, modes, times, attributes, links and devices: their bytes are in the record, but what they come to
//! in a directory is for unpacking alone to say. So [`outline`] unpacks the tar without the data of its files into a
//! directory beside the layer's, and tells the two apart. [`again`] unpacks all of it, which can take the layer's place.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{FileType, Stat};
use store::{Digest, Lease, NewLayer, Store, Usage};
use sys::Dir;

use crate::record::{self, RecordError};
use crate::unpack::{self, Form, Limits, UnpackError, complete, unpack_as};

/// Something of a layer that is not as its tar says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Path in the layer.
    pub path: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

/// Why a layer could not be unpacked anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgainError {
    /// The source gives another tar.
    #[error("it gives a layer of the diff ID {0}")]
    Differs(Digest),
    /// The record or a file of the layer.
    #[error("{}", crate::text::whole(.0))]
    Record(#[from] RecordError),
    /// Unpacking.
    #[error("{}", crate::text::whole(.0))]
    Unpack(#[from] UnpackError),
    /// The store.
    #[error(transparent)]
    Fault(#[from] store::Fault),
}

impl AgainError {
    /// Whether the disk, the inodes or a quota are used up.
    pub fn is_full(&self) -> bool {
        match self {
            AgainError::Unpack(error) => error.is_full(),
            AgainError::Fault(fault) => matches!(fault, store::Fault::Full(..)),
            _ => false,
        }
    }
}

fn damages(wrong: Vec<RecordError>) -> Vec<Damage> {
    let damage = |error| match error {
        RecordError::File { path, source } if source.kind() == io::ErrorKind::NotFound => Damage {
            path,
            what: "it is gone".to_owned(),
        },
        RecordError::File { path, source } => Damage {
            path,
            what: format!("it cannot be read: {source}"),
        },
        RecordError::Changed { path } => Damage {
            path,
            what: "its content was changed".to_owned(),
        },
        other => Damage {
            path: PathBuf::new(),
            what: crate::text::whole(&other),
        },
    };
    wrong.into_iter().map(damage).collect()
}

fn record_damage(error: &RecordError) -> Vec<Damage> {
    vec![Damage {
        path: PathBuf::new(),
        what: crate::text::whole(error),
    }]
}

/// What can be seen of a layer's files without reading them: those that are gone or of another size.
pub fn glance(fs: &Dir, record: &File) -> Vec<Damage> {
    match record::glance(fs, record) {
        Ok(wrong) => damages(wrong),
        Err(error) => record_damage(&error),
    }
}

/// Whether there are as many things in a layer as there were; which is wrong, [`compare`] tells.
///
/// # Errors
/// The directory cannot be walked.
pub fn count(fs: &Dir, expected: &Usage) -> io::Result<Vec<Damage>> {
    let found = Usage::of(fs)?.inodes;
    let wrong = (found != expected.inodes).then(|| Damage {
        path: PathBuf::new(),
        what: format!("it has {found} files and directories, not {}", expected.inodes),
    });
    Ok(wrong.into_iter().collect())
}

/// What is wrong with the content of a layer's files: each is read.
pub fn check(fs: &Dir, record: &File, diff_id: &Digest) -> Vec<Damage> {
    match record::check(fs, record) {
        Err(error) => record_damage(&error),
        Ok(Err(wrong)) => damages(wrong),
        Ok(Ok(found)) if found == *diff_id => Vec::new(),
        Ok(Ok(found)) => vec![Damage {
            path: PathBuf::new(),
            what: format!("its files and its record give the diff ID {found}"),
        }],
    }
}

/// How layer `n` differs from what its tar says, but for the content of files; at most `most` differences. The empty
/// directory `into`, on the same file system, is left to the caller.
///
/// # Errors
/// [`AgainError`]
pub fn outline(
    store: &Store,
    n: u64,
    into: &Dir,
    below: &[u64],
    limits: &Limits,
    most: usize,
) -> Result<Vec<Damage>, AgainError> {
    let (fs, record) = (store.layer_dir(n)?, store.layer_record(n)?);
    let below = opened(store, below)?;
    let headers = |out| record::headers(&record, out);
    let form = Form::of(store);
    piped(headers, |tar| {
        Ok(unpack::outline(form, tar, into, &complete(&below), limits)?)
    })?;
    compare(&fs, into, most).map_err(|source| {
        let path = store.layer_path(n);
        let what = "comparing";
        store::Fault::Io { what, path, source }.into()
    })
}

/// Unpacks layer `n` once more, from its own files and record, into a new directory of the store.
///
/// # Errors
/// [`AgainError`]
pub fn again(
    store: &Store,
    lease: &Lease,
    n: u64,
    diff_id: &Digest,
    below: &[u64],
    limits: &Limits,
) -> Result<NewLayer, AgainError> {
    let (fs, record) = (store.layer_dir(n)?, store.layer_record(n)?);
    let rebuild = |out| record::rebuild(&fs, &record, out).map(drop);
    piped(rebuild, |tar| anew(store, lease, tar, diff_id, below, limits))
}

/// What `write` writes is what `read` reads.
fn piped<T>(
    write: impl FnOnce(File) -> Result<(), RecordError> + Send,
    read: impl FnOnce(File) -> Result<T, AgainError>,
) -> Result<T, AgainError> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| UnpackError::Threads(error.into()))?;
    thread::scope(|scope| {
        let writing = scope.spawn(move || write(File::from(writer)));
        let unpacked = read(File::from(reader));
        match (writing.join(), unpacked) {
            (Err(panic), _) => std::panic::resume_unwind(panic),
            // Where unpacking broke off, the other end had nobody to write to.
            (Ok(Err(RecordError::Write(_))), unpacked) => unpacked,
            (Ok(Err(error)), _) => Err(error.into()),
            (Ok(Ok(_)), unpacked) => unpacked,
        }
    })
}

/// Unpacks a layer's tar into a new directory of the store, above the layers `below` (topmost first).
///
/// # Errors
/// [`AgainError`]
pub fn anew(
    store: &Store,
    lease: &Lease,
    tar: impl Read,
    diff_id: &Digest,
    below: &[u64],
    limits: &Limits,
) -> Result<NewLayer, AgainError> {
    let below = opened(store, below)?;
    let new = store.new_layer(lease)?;
    let record = new.record()?;
    let unpacked = unpack_as(
        Form::of(store),
        tar,
        new.fs(),
        &complete(&below),
        record,
        limits,
        &|_| (),
    )?;
    match unpacked.diff_id == *diff_id {
        true => Ok(new),
        false => Err(AgainError::Differs(unpacked.diff_id)),
    }
}

fn opened(store: &Store, layers: &[u64]) -> Result<Vec<Dir>, store::Fault> {
    layers.iter().map(|n| store.layer_dir(*n)).collect()
}

/// How the tree `found` differs from the tree `expected`, but for the content of files; at most `most` differences.
///
/// # Errors
/// One of them cannot be walked.
pub fn compare(found: &Dir, expected: &Dir, most: usize) -> io::Result<Vec<Damage>> {
    let mut comparison = Comparison {
        wrong: Vec::new(),
        links: HashMap::new(),
        most,
    };
    let (at, with) = (found.metadata()?, expected.metadata()?);
    comparison.stat(Path::new(""), &at, &with);
    comparison.xattrs(Path::new(""), &xattrs(found)?, &xattrs(expected)?);
    comparison.directory(Path::new(""), found, expected)?;
    Ok(comparison.wrong)
}

struct Comparison {
    wrong: Vec<Damage>,
    /// Which file of the one tree is which of the other.
    links: HashMap<u64, u64>,
    most: usize,
}

type Attributes = Vec<(std::ffi::OsString, Vec<u8>)>;

impl Comparison {
    fn tell(&mut self, path: &Path, what: impl Into<String>) {
        if self.wrong.len() < self.most {
            self.wrong.push(Damage {
                path: path.to_owned(),
                what: what.into(),
            });
        }
    }

    fn directory(&mut self, path: &Path, found: &Dir, expected: &Dir) -> io::Result<()> {
        let names = |dir: &Dir| -> io::Result<Vec<std::ffi::OsString>> {
            let mut names: Vec<_> = dir.entries()?.into_iter().map(|entry| entry.name).collect();
            names.sort();
            Ok(names)
        };
        let (here, wanted) = (names(found)?, names(expected)?);
        for name in here.iter().filter(|name| wanted.binary_search(name).is_err()) {
            self.tell(&path.join(name), "it does not belong there");
        }
        for name in wanted {
            if self.wrong.len() >= self.most {
                return Ok(());
            }
            let path = path.join(&name);
            match found.try_stat(&name)? {
                None => self.tell(&path, "it is gone"),
                Some(stat) => self.entry(&path, &name, (found, &stat), (expected, &expected.stat(&name)?))?,
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: &Path,
        name: &OsStr,
        (found, stat): (&Dir, &Stat),
        (expected, wanted): (&Dir, &Stat),
    ) -> io::Result<()> {
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        if kind(stat) != kind(wanted)
            || (kind(stat) == FileType::CharacterDevice && stat.st_rdev != wanted.st_rdev)
        {
            self.tell(path, "it is something else");
            return Ok(());
        }
        // A whiteout says nothing but that it is there.
        if kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0 {
            return Ok(());
        }
        self.stat(path, stat, wanted);
        self.xattrs(path, &named_xattrs(found, name)?, &named_xattrs(expected, name)?);
        match kind(stat) {
            FileType::Symlink if found.read_link(name)? != expected.read_link(name)? => {
                self.tell(path, "it leads elsewhere");
            }
            FileType::Directory => {
                self.directory(path, &found.open_dir(name)?, &expected.open_dir(name)?)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn stat(&mut self, path: &Path, found: &Stat, wanted: &Stat) {
        let directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        if (found.st_uid, found.st_gid) != (wanted.st_uid, wanted.st_gid) {
            let (uid, gid) = (found.st_uid, found.st_gid);
            self.tell(
                path,
                format!(
                    "its owner is {uid}:{gid}, not {}:{}",
                    wanted.st_uid, wanted.st_gid
                ),
            );
        }
        if found.st_mode != wanted.st_mode {
            let mode = |stat: &Stat| stat.st_mode & 0o7777;
            self.tell(
                path,
                format!("its mode is {:o}, not {:o}", mode(found), mode(wanted)),
            );
        }
        if (found.st_mtime, found.st_mtime_nsec) != (wanted.st_mtime, wanted.st_mtime_nsec) {
            self.tell(path, "it was changed at another time");
        }
        if found.st_rdev != wanted.st_rdev {
            self.tell(path, "it is another device");
        }
        if !directory && found.st_size != wanted.st_size {
            self.tell(
                path,
                format!("it has {} bytes, not {}", found.st_size, wanted.st_size),
            );
        }
        if !directory
            && (found.st_nlink > 1 || wanted.st_nlink > 1)
            && *self.links.entry(found.st_ino).or_insert(wanted.st_ino) != wanted.st_ino
        {
            self.tell(path, "its hard links are others");
        }
        if !directory && found.st_nlink != wanted.st_nlink {
            self.tell(
                path,
                format!("it has {} names, not {}", found.st_nlink, wanted.st_nlink),
            );
        }
    }

    fn xattrs(&mut self, path: &Path, found: &Attributes, wanted: &Attributes) {
        for (name, value) in wanted {
            match found.iter().find(|(other, _)| other == name) {
                None => self.tell(path, format!("its attribute {} is gone", name.to_string_lossy())),
                Some((_, other)) if other != value => {
                    self.tell(
                        path,
                        format!("its attribute {} was changed", name.to_string_lossy()),
                    );
                }
                Some(_) => {}
            }
        }
        for (name, _) in found
            .iter()
            .filter(|(name, _)| !wanted.iter().any(|(other, _)| other == name))
        {
            self.tell(path, format!("it has an attribute {}", name.to_string_lossy()));
        }
    }
}

/// Attributes of a thing in a directory, without those that only the machine gives.
fn named_xattrs(dir: &Dir, name: &OsStr) -> io::Result<Attributes> {
    let mut all = Attributes::new();
    for attr in dir.list_xattrs(name)? {
        if attr != *"security.selinux"
            && let Some(value) = dir.get_xattr(name, &attr)?
        {
            all.push((attr, value));
        }
    }
    Ok(all)
}

fn xattrs(dir: &Dir) -> io::Result<Attributes> {
    let mut all = Attributes::new();
    for attr in sys::xattr::list(dir.as_fd())? {
        if attr != *"security.selinux"
            && let Some(value) = sys::xattr::get(dir.as_fd(), &attr)?
        {
            all.push((attr, value));
        }
    }
    Ok(all)
}
