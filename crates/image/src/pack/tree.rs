//! One directory as it is, in overlay format.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use overlay::{Opaque, whiteout, xattr};
use rustix::fs::Stat;
use sys::Dir;

use super::entry::is_pseudo;
use super::{Data, KEPT_OPEN, MAX_PATH, PackError, Packer, Thing, kind_of, read, there};
use crate::record::open_quietly;
use crate::tar::Kind;

/// A directory that is being packed.
pub(super) struct Level {
    dir: Option<Dir>,
    /// As it is called in the archive.
    path: PathBuf,
    /// Where it is beneath the root that is packed.
    at: PathBuf,
    /// What is left of it, in reverse order.
    names: Vec<OsString>,
}

impl Level {
    pub(super) fn new(dir: Dir, path: PathBuf, at: PathBuf) -> Result<Level, PackError> {
        let entries = dir.entries().map_err(read(&path))?;
        let mut names: Vec<OsString> = entries.into_iter().map(|entry| entry.name).collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Level {
            dir: Some(dir),
            path,
            at,
            names,
        })
    }
}

impl<W: Write> Packer<'_, W> {
    /// Packs the layer whose root is `fs`.
    pub(super) fn tree(&mut self, fs: &Dir) -> Result<(), PackError> {
        let root = PathBuf::new();
        let stat = fs.metadata().map_err(read(&root))?;
        let thing = Thing::of_dir(fs).map_err(read(&root))?;
        self.head(&self.entry(&root, &stat, Kind::Directory, thing.attributes))?;
        let top = Level::new(fs.try_clone().map_err(read(&root))?, root.clone(), root)?;
        self.walk(fs, top)
    }

    /// Packs what is in a directory beneath `fs`.
    pub(super) fn walk(&mut self, fs: &Dir, top: Level) -> Result<(), PackError> {
        let mut levels = vec![top];
        while let Some(depth) = levels.len().checked_sub(1) {
            let level = &mut levels[depth];
            let Some(name) = level.names.pop() else {
                levels.pop();
                continue;
            };
            let path = level.path.join(&name);
            if path.as_os_str().len() > MAX_PATH {
                return Err(PackError::TooDeep {
                    path: level.path.clone(),
                });
            }
            if level.dir.is_none() {
                level.dir = Some(fs.open_dir(&level.at).map_err(read(&level.path))?);
            }
            let Some(dir) = &level.dir else { continue };
            if let Some(child) = self.one(dir, &name, &path)? {
                let at = level.at.join(&name);
                levels.push(Level::new(child, path, at)?);
                if let Some(far) = levels.len().checked_sub(KEPT_OPEN + 1) {
                    levels[far].dir = None;
                }
            }
        }
        Ok(())
    }

    /// Packs one thing; answers it if it is a directory to go into.
    pub(super) fn one(&mut self, dir: &Dir, name: &OsStr, path: &Path) -> Result<Option<Dir>, PackError> {
        if self.passes_over(path)? {
            return Ok(None);
        }
        let Some(stat) = dir.try_stat(name).map_err(read(path))? else {
            return Ok(None);
        };
        let is_whiteout = || there(whiteout::is_whiteout(dir, name, &stat, self.prefix)).map_err(read(path));
        if self.overlay && is_whiteout()?.unwrap_or(false) {
            let parent = path.parent().unwrap_or(Path::new(""));
            self.mark(parent, &[b".wh.", name.as_bytes()].concat())?;
            return Ok(None);
        }
        let Some(kind) = kind_of(&stat) else {
            return Ok(None);
        };
        if kind != Kind::Directory && self.linked(path, &stat)? {
            return Ok(None);
        }
        let Some(thing) = there(Thing::of(dir, name, kind)).map_err(read(path))? else {
            return Ok(None);
        };
        let marked = |mark| self.overlay && thing.attribute(&self.prefix.name(mark)).is_some();
        let (metacopy, redirect) = (marked(xattr::METACOPY), marked(xattr::REDIRECT));
        let mut entry = self.entry(path, &stat, kind, thing.attributes);
        match kind {
            Kind::File => {
                let Some(data) = there(self.data(dir, name, path, &stat, metacopy))
                    .map_err(read(path))?
                    .transpose()?
                else {
                    return Ok(None);
                };
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                return self.file(&mut entry, size, &data, path).map(|()| None);
            }
            Kind::Directory => {}
            _ => {
                entry.link = thing.target.as_bytes().to_vec();
                return self.head(&entry).map(|()| None);
            }
        }
        let Some(opened) = there(dir.open_dir(name)).map_err(read(path))? else {
            return Ok(None);
        };
        self.head(&entry)?;
        if !self.overlay {
            return Ok((!is_pseudo(&opened)).then_some(opened));
        }
        let opaque = Opaque::read(opened.as_fd(), self.prefix).map_err(read(path))? == Opaque::Yes;
        if opaque || redirect {
            self.mark(path, b".wh..wh..opq")?;
        }
        match redirect && !opaque {
            true => self.redirected(path).map(|()| None),
            false => Ok(Some(opened)),
        }
    }

    /// Where the data of a regular file is; the inner error is for one that the layer alone does not tell.
    fn data(
        &self,
        dir: &Dir,
        name: &OsStr,
        path: &Path,
        stat: &Stat,
        metacopy: bool,
    ) -> io::Result<Result<Data, PackError>> {
        if metacopy && self.prefix != overlay::Prefix::User {
            let Some(whole) = &self.whole else {
                return Ok(Err(PackError::NeedsBelow {
                    path: path.to_owned(),
                    attribute: xattr::METACOPY,
                }));
            };
            return self.data_of(whole, path).map_err(missing_data).map(Ok);
        }
        let file = open_quietly(dir, name.as_ref())?;
        if !self.overlay && !file.metadata()?.is_file() {
            // Whoever is inside put something else in its place.
            return Ok(Err(PackError::Changed {
                path: path.to_owned(),
            }));
        }
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        Ok(Ok(Data { file, blocks }))
    }

    /// What a renamed directory shows, all of it.
    fn redirected(&mut self, path: &Path) -> Result<(), PackError> {
        let found = match &self.whole {
            None => {
                return Err(PackError::NeedsBelow {
                    path: path.to_owned(),
                    attribute: xattr::REDIRECT,
                });
            }
            Some(whole) => whole.lookup(path).map_err(read(path))?,
        };
        match found {
            Some(overlay::stack::Found::Dir(merged)) => self.merged(merged, path.to_owned()),
            _ => Ok(()),
        }
    }
}

/// Data that is not there is damage, no file that has just gone.
fn missing_data(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => error,
    }
}
