//! What layers show when they are merged.

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::vec;

use overlay::Stack;
use overlay::stack::{Found, Merged, OpenMerged};
use overlay::xattr;
use sys::Dir;

use super::{Data, MAX_PATH, PackError, Packer, Thing, kind_of, read, there};
use crate::record::open_quietly;
use crate::tar::Kind;

/// Of the directories on the way so many are kept open, each with the parts that it is merged of.
const KEPT_OPEN: usize = 8;

/// A merged directory that is being packed.
struct Level {
    merged: Merged,
    open: Option<OpenMerged>,
    path: PathBuf,
    names: vec::IntoIter<OsString>,
}

impl<'a, W: Write> Packer<'a, W> {
    /// Packs the root of the merged view and everything in it.
    pub(super) fn merged_root(&mut self, root: &Merged) -> Result<(), PackError> {
        let top = Path::new("");
        let whole = self.stack();
        let dir = whole.open_place(&root.parts[0]).map_err(read(top))?;
        let thing = Thing::of_dir(&dir).map_err(read(top))?;
        self.head(&self.entry(top, &root.stat, Kind::Directory, thing.attributes))?;
        self.merged(root.clone(), PathBuf::new())
    }

    /// The stack of all layers; what is merged has one.
    fn stack(&self) -> Stack<&'a Dir> {
        let none = || Stack::new([], self.prefix);
        self.whole.clone().unwrap_or_else(none)
    }

    /// Packs what is in a merged directory.
    pub(super) fn merged(&mut self, merged: Merged, path: PathBuf) -> Result<(), PackError> {
        let whole = self.stack();
        let mut levels = vec![level(&whole, merged, path)?];
        while let Some(depth) = levels.len().checked_sub(1) {
            let level_here = &mut levels[depth];
            let Some(name) = level_here.names.next() else {
                levels.pop();
                continue;
            };
            let path = level_here.path.join(&name);
            if path.as_os_str().len() > MAX_PATH {
                return Err(PackError::TooDeep {
                    path: level_here.path.clone(),
                });
            }
            if self.passes_over(&path)? {
                continue;
            }
            let open = match level_here.open.take() {
                Some(open) => open,
                None => whole.open(&level_here.merged).map_err(read(&level_here.path))?,
            };
            let found = there(whole.child(&open, &name)).map_err(read(&path))?.flatten();
            level_here.open = Some(open);
            let child = match found {
                Some(found) => self.found(&whole, found, &path)?,
                None => None,
            };
            if let Some(child) = child {
                levels.push(level(&whole, child, path)?);
                if let Some(far) = levels.len().checked_sub(KEPT_OPEN + 1) {
                    levels[far].open = None;
                }
            }
        }
        Ok(())
    }

    /// Packs one thing; answers it if it is a directory to go into.
    fn found(&mut self, whole: &Stack<&Dir>, found: Found, path: &Path) -> Result<Option<Merged>, PackError> {
        let stat = *found.stat();
        let Some(kind) = kind_of(&stat) else {
            return Ok(None);
        };
        if kind != Kind::Directory && self.linked(path, &stat)? {
            return Ok(None);
        }
        let thing = whole.parent_of(found.place()).and_then(|(dir, name)| {
            let thing = Thing::of(&dir, &name, kind)?;
            Ok((dir, name, thing))
        });
        let Some((dir, name, thing)) = there(thing).map_err(read(path))? else {
            return Ok(None);
        };
        let metacopy = thing.attribute(&self.prefix.name(xattr::METACOPY)).is_some();
        let mut entry = self.entry(path, &stat, kind, thing.attributes);
        match (kind, found) {
            (Kind::File, _) => {
                let data = match metacopy {
                    true => self.data_of(whole, path).map(Some),
                    false => there(open_quietly(&dir, name.as_ref())).map(|file| {
                        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
                        file.map(|file| Data { file, blocks })
                    }),
                };
                let Some(data) = data.map_err(read(path))? else {
                    return Ok(None);
                };
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                self.file(&mut entry, size, &data, path)?;
                Ok(None)
            }
            (_, Found::Dir(merged)) => {
                self.head(&entry)?;
                Ok(Some(merged))
            }
            _ => {
                entry.link = thing.target.as_bytes().to_vec();
                self.head(&entry)?;
                Ok(None)
            }
        }
    }

    /// The data of a metadata-only file, from the layer that has it.
    pub(super) fn data_of(&self, whole: &Stack<&Dir>, path: &Path) -> io::Result<Data> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name),
            _ => return Err(gone()),
        };
        let Some(Found::Dir(parent)) = whole.lookup(parent)? else {
            return Err(gone());
        };
        let Some(file @ Found::File { .. }) = whole.child(&whole.open(&parent)?, name)? else {
            return Err(gone());
        };
        let place = whole.data_place(&parent, name, file.place())?;
        let (dir, name) = whole.parent_of(&place)?;
        let blocks = u64::try_from(dir.stat(&name)?.st_blocks).unwrap_or(0);
        let file = open_quietly(&dir, name.as_ref())?;
        Ok(Data { file, blocks })
    }
}

fn level(whole: &Stack<&Dir>, merged: Merged, path: PathBuf) -> Result<Level, PackError> {
    let open = whole.open(&merged).map_err(read(&path))?;
    let names = whole.names(&open).map_err(read(&path))?;
    Ok(Level {
        merged,
        open: Some(open),
        path,
        names: names.into_iter(),
    })
}
