//! Ways through the layer's own tree, and what is taken over from the layers below it.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use overlay::stack::{Found, Merged};
use overlay::whiteout;
use rustix::fs::FileType;

use super::dirs::{Id, ROOT, os};
use super::layer::{Unlisted, Unpacking};
use super::meta::{Meta, copy_data, first_mode, stored_xattrs};
use super::name::{clean, split};
use super::{UnpackError, failed, refused};
use crate::record::open_quietly;
use crate::tar::Entry;

/// As many symbolic links as the kernel follows on the way of one name.
const MAX_LINKS: u32 = 40;

/// Bytes of memory that a name without data of its own takes in [`Unpacking::unlisted`], besides itself.
const LINK: usize = 96;

/// Where a way through the layer's own directories ended.
enum Way {
    /// In this directory.
    Dir(Id),
    /// Nothing further in this layer: the directory reached, and the components that are left.
    Missing(Id, Vec<Vec<u8>>),
    /// At a whiteout of this layer, or at something that is no directory.
    Closed,
}

impl<W: Write> Unpacking<'_, W> {
    /// Follows a path from the layer's root, through symbolic links of this layer as if it were the whole file
    /// system. With `make`, missing directories are made, and a whiteout on the way becomes an opaque directory.
    fn way(&mut self, path: &[u8], make: bool, entry: &[u8]) -> Result<Way, UnpackError> {
        let split = |path: &[u8], onto: &mut Vec<Vec<u8>>| {
            let components = path.split(|byte| *byte == b'/').rev();
            onto.extend(
                components
                    .filter(|name| !matches!(*name, b"" | b"."))
                    .map(<[u8]>::to_vec),
            );
        };
        let mut todo = Vec::new();
        split(path, &mut todo);
        let (mut at, mut links) = (ROOT, 0);
        while let Some(name) = todo.pop() {
            if name == b".." {
                at = self.dirs.nodes[at as usize].parent;
                continue;
            }
            if let Some(child) = self.dirs.child(at, &name) {
                at = child;
                continue;
            }
            let dir = self.dir(at, entry)?;
            let looking = |error| failed(entry, "looking at its directory")(error);
            match dir.try_stat(os(&name)).map_err(looking)? {
                Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refused(entry, "too many symbolic links on the way"));
                    }
                    let target = dir.read_link(os(&name)).map_err(looking)?;
                    if target.as_bytes().starts_with(b"/") {
                        at = ROOT;
                    }
                    split(target.as_bytes(), &mut todo);
                }
                None if make => at = self.make_directory(at, &name, 0o755, entry)?,
                None => {
                    todo.push(name);
                    todo.reverse();
                    return Ok(Way::Missing(at, todo));
                }
                Some(stat) => {
                    let prefix = self.form.overlay.prefix;
                    let gone = whiteout::is_whiteout(&dir, os(&name), &stat, prefix).map_err(looking)?;
                    match (gone, make) {
                        (true, true) => at = self.make_directory(at, &name, 0o755, entry)?,
                        (false, true) => {
                            let path = crate::tar::shown(&self.dirs.path_of(at, &name));
                            return Err(refused(
                                entry,
                                format!("{path:?}, in which it lies, is no directory"),
                            ));
                        }
                        (_, false) => return Ok(Way::Closed),
                    }
                }
            }
        }
        Ok(Way::Dir(at))
    }

    /// The directory that `path` leads to; whatever is missing is made.
    pub(super) fn make_way(&mut self, path: &[u8], entry: &[u8]) -> Result<Id, UnpackError> {
        match self.way(path, true, entry)? {
            Way::Dir(id) => Ok(id),
            Way::Missing(..) | Way::Closed => Err(refused(entry, "its directory cannot be made")),
        }
    }

    pub(super) fn hard_link(&mut self, entry: &Entry, parent: Id, name: &[u8]) -> Result<(), UnpackError> {
        let refuse = |what: &str| {
            let target = crate::tar::shown(&entry.link);
            refused(&entry.name, format!("a hard link to {target:?}: {what}"))
        };
        let target = clean(&entry.link, 4096).map_err(refuse)?;
        if target.is_empty() {
            return Err(refuse("that is the layer's root"));
        }
        let (holder, target_name) = split(&target);
        let missing = || refuse("there is no such file");
        let (from, from_name, visible) = match self.way(holder, false, &entry.name)? {
            Way::Closed => return Err(missing()),
            Way::Dir(id) => (id, target_name.to_vec(), Vec::new()),
            Way::Missing(id, mut rest) => {
                rest.push(target_name.to_vec());
                (id, rest.remove(0), rest)
            }
        };
        if visible.is_empty() {
            if self.dirs.child(from, &from_name).is_some() {
                return Err(refuse("that is a directory"));
            }
            let dir = self.dir(from, &entry.name)?;
            let looking = |error| failed(&entry.name, "looking at what it links to")(error);
            if let Some(stat) = dir.try_stat(os(&from_name)).map_err(looking)? {
                if whiteout::is_whiteout(&dir, os(&from_name), &stat, self.form.overlay.prefix)
                    .map_err(looking)?
                {
                    return Err(missing());
                }
                return self.link(entry, from, &from_name, parent, name);
            }
        }
        // It is not in this layer; in those below it is only what this layer lets through.
        if self.dirs.hides_below(from) || visible.iter().any(|name| name == b"..") {
            return Err(missing());
        }
        let mut path = self.dirs.path_of(from, &from_name);
        for component in &visible {
            path.push(b'/');
            path.extend_from_slice(component);
        }
        let reading = |error| failed(&entry.name, "reading what it links to")(error);
        let (holder, file_name) = split(&path);
        let stack = self.below().map_err(reading)?;
        let found = match stack.lookup(Path::new(os(holder))).map_err(reading)? {
            Some(Found::Dir(merged)) => {
                let open = stack.open(&merged).map_err(reading)?;
                stack
                    .child(&open, os(file_name))
                    .map_err(reading)?
                    .map(|found| (merged, found))
            }
            _ => None,
        };
        match found {
            None => Err(missing()),
            Some((_, Found::Dir(_))) => Err(refuse("that is a directory")),
            Some((merged, found)) => {
                self.depends_on_below = true;
                let from = self.make_way(holder, &entry.name)?;
                self.copy_up(&merged, &found, from, file_name, &entry.name)?;
                self.link(entry, from, file_name, parent, name)
            }
        }
    }

    /// Gives a file of this layer a further name.
    fn link(
        &mut self,
        entry: &Entry,
        from: Id,
        from_name: &[u8],
        to: Id,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        if (from, from_name) == (to, name) {
            return Ok(());
        }
        let linking = |error| failed(&entry.name, "making the hard link")(error);
        let from_dir = self.dir(from, &entry.name)?;
        let dir = self.dir(to, &entry.name)?;
        match dir.link(&from_dir, os(from_name), os(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.displace(&dir, to, name, &entry.name)?;
                dir.link(&from_dir, os(from_name), os(name)).map_err(linking)?;
            }
            other => other.map_err(linking)?,
        }
        self.remember(LINK + name.len(), &entry.name)?;
        self.unlisted.insert((to, name.into()), Unlisted::Linked);
        Ok(())
    }

    /// Copies a file of the layers below, `found` in `merged`, to `name` in this layer's directory `to`.
    fn copy_up(
        &mut self,
        merged: &Merged,
        found: &Found,
        to: Id,
        name: &[u8],
        entry: &[u8],
    ) -> Result<(), UnpackError> {
        let copying = |error| failed(entry, "copying the file of a layer below")(error);
        let (stat, place) = (found.stat(), found.place());
        let stack = self.below().map_err(copying)?;
        let (holder, place_name) = stack.parent_of(place).map_err(copying)?;
        let xattrs =
            stored_xattrs(&holder, place_name.as_bytes(), self.form.overlay.prefix).map_err(copying)?;
        let meta = Meta::of_stat(stat, xattrs);
        let dir = self.dir(to, entry)?;
        let set = |result: Result<_, (String, io::Error)>| {
            result.map_err(|(doing, error)| {
                failed(entry, format!("copying the file of a layer below: {doing}"))(error)
            })
        };
        let made = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let stack = self.below().map_err(copying)?;
                let data = stack.data_place(merged, os(name), place).map_err(copying)?;
                let from = open_quietly(&stack.layers()[data.layer], &data.path).map_err(copying)?;
                let file = dir.create_new(os(name), first_mode(meta.mode)).map_err(copying)?;
                copy_data(&from, &file).map_err(copying)?;
                set(meta.set_on(&file))?
            }
            FileType::Symlink => {
                let target = holder.read_link(&place_name).map_err(copying)?;
                dir.symlink(target, os(name)).map_err(copying)?;
                set(meta.set_at(&dir, name))?
            }
            kind => {
                dir.mknod(os(name), kind, first_mode(meta.mode), stat.st_rdev)
                    .map_err(copying)?;
                set(meta.set_at(&dir, name))?
            }
        };
        self.count(&made);
        self.remember(LINK + name.len(), entry)?;
        self.unlisted.insert((to, name.into()), Unlisted::CopiedUp);
        Ok(())
    }
}
