//! What is left to do when every entry is in place: the directories.

use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use overlay::stack::{Found, Merged};
use overlay::{whiteout, xattr};
use rustix::fs::FileType;

use super::dirs::{Id, ROOT, os};
use super::layer::Unpacking;
use super::meta::{Meta, stored_xattrs};
use super::{UnpackError, failed};

/// What the layers below have under a directory of this one, as far as it was asked.
type Below = HashMap<Id, Option<Rc<Merged>>>;

/// Most of these that are remembered; what is forgotten is looked at again.
const KNOWN: usize = 4096;

impl<W: Write> Unpacking<'_, W> {
    /// Marks opaque directories and gives every directory its owner, mode, attributes and times.
    pub(super) fn finish(&mut self) -> Result<(), UnpackError> {
        let count = self.dirs.nodes.len();
        // A parent stands before its children.
        let mut gone = vec![false; count];
        let mut covers = vec![false; count];
        for id in 0..count {
            let node = &self.dirs.nodes[id];
            let parent = node.parent as usize;
            gone[id] = node.gone || gone[parent];
            covers[id] = node.opaque || covers[parent];
        }
        self.drop_idle_whiteouts(&gone, &covers)?;
        if self.dirs.nodes[ROOT as usize].opaque {
            self.opaque_root()?;
        }
        let mut below = Below::new();
        // One directory after another is opened, and what lies in it is reached by name.
        let mut order: Vec<Id> = (ROOT + 1..count as Id).filter(|id| !gone[*id as usize]).collect();
        order.sort_unstable_by_key(|id| (self.dirs.nodes[*id as usize].parent, *id));
        for id in order {
            let node = &self.dirs.nodes[id as usize];
            let (parent, opaque, whited_out) = (node.parent, node.opaque, node.whited_out);
            let name = self.dirs.name(id).to_vec();
            let meta = match self.dirs.take_meta(id) {
                Some(meta) => meta,
                None if whited_out || covers[parent as usize] => Meta::unlisted(),
                None => {
                    self.depends_on_below = true;
                    self.taken_over(id, &mut below)?
                }
            };
            let dir = self
                .dirs
                .dir(parent)
                .map_err(|error| self.failed_at(id, "opening its directory", error))?;
            if opaque {
                let marked = dir.set_xattr(os(&name), self.form.overlay.prefix.name(xattr::OPAQUE), b"y");
                marked.map_err(|error| self.failed_at(id, "marking it opaque", error))?;
            }
            let stat = meta.set_at(&dir, &name);
            let stat = stat.map_err(|(doing, error)| self.failed_at(id, &doing, error))?;
            self.count(&stat);
        }
        // Nothing is made any more: the root last.
        let root = self
            .dirs
            .dir(ROOT)
            .map_err(|error| self.failed_at(ROOT, "opening it", error))?;
        let meta = self.dirs.take_meta(ROOT).unwrap_or_else(Meta::unlisted);
        let stat = meta.set_on(root.as_fd());
        let stat = stat.map_err(|(doing, error)| self.failed_at(ROOT, &doing, error))?;
        self.count(&stat);
        Ok(())
    }

    fn failed_at(&self, id: Id, doing: &str, error: std::io::Error) -> UnpackError {
        let path = [b"/", self.dirs.path(id).as_slice()].concat();
        failed(&path, doing)(error)
    }

    /// Removes whiteouts from directories through which nothing below shows: they hide nothing, and the kernel would
    /// list them.
    fn drop_idle_whiteouts(&mut self, gone: &[bool], covers: &[bool]) -> Result<(), UnpackError> {
        for id in 0..gone.len() {
            if gone[id] || !covers[id] || !self.dirs.nodes[id].whiteouts {
                continue;
            }
            let id = id as Id;
            let dir = self
                .dirs
                .dir(id)
                .map_err(|error| self.failed_at(id, "opening it", error))?;
            let dropped = (|| {
                let mut dropped = 0;
                for entry in dir.entries()? {
                    if matches!(entry.file_type.0, FileType::Directory | FileType::Symlink) {
                        continue;
                    }
                    let stat = dir.stat(&entry.name)?;
                    if whiteout::is_whiteout(&dir, &entry.name, &stat, self.form.overlay.prefix)? {
                        dir.unlink(&entry.name)?;
                        dropped += 1;
                    }
                }
                Ok(dropped)
            })();
            self.usage.inodes -= dropped.map_err(|error| self.failed_at(id, "dropping whiteouts", error))?;
        }
        Ok(())
    }

    /// An opaque root cannot be marked as one: the kernel merges the roots of all layers. Its directories are
    /// marked instead, and whatever else the layers below have in their root gets a whiteout.
    fn opaque_root(&mut self) -> Result<(), UnpackError> {
        self.depends_on_below = true;
        for node in &mut self.dirs.nodes[1..] {
            node.opaque |= node.parent == ROOT;
        }
        let root = self
            .dirs
            .dir(ROOT)
            .map_err(|error| self.failed_at(ROOT, "opening it", error))?;
        let made = (|| {
            let stack = self.below()?;
            let Some(below) = stack.root()? else {
                return Ok(0);
            };
            let mut made = 0;
            for name in stack.names(&stack.open(&below)?)? {
                if root.try_stat(&name)?.is_none() {
                    whiteout::make(&root, &name, self.form.overlay)?;
                    made += 1;
                }
            }
            Ok(made)
        })();
        self.usage.inodes += made.map_err(|error| self.failed_at(ROOT, "hiding the layers below", error))?;
        Ok(())
    }

    /// What the layers below say about a directory that this one does not list.
    fn taken_over(&self, id: Id, below: &mut Below) -> Result<Meta, UnpackError> {
        let mut taken = || -> std::io::Result<Meta> {
            let Some(merged) = self.merged_below(id, below)? else {
                return Ok(Meta::unlisted());
            };
            let (holder, name) = self.below()?.parent_of(&merged.parts[0])?;
            let xattrs = stored_xattrs(&holder, name.as_bytes(), self.form.overlay.prefix)?;
            Ok(Meta::of_stat(&merged.stat, xattrs))
        };
        taken().map_err(|error| self.failed_at(id, "looking at the layers below", error))
    }

    /// The directory that the layers below have where this one has `id`.
    fn merged_below(&self, id: Id, below: &mut Below) -> std::io::Result<Option<Rc<Merged>>> {
        if below.len() > KNOWN {
            below.clear();
        }
        let mut way = Vec::new();
        let mut at = id;
        while at != ROOT && !below.contains_key(&at) {
            way.push(at);
            at = self.dirs.nodes[at as usize].parent;
        }
        let mut merged = match below.get(&at) {
            Some(known) => known.clone(),
            None => self.below()?.root()?.map(Rc::new),
        };
        below.insert(at, merged.clone());
        let stack = self.below()?;
        for id in way.into_iter().rev() {
            merged = match &merged {
                None => None,
                Some(parent) => match stack.child(&stack.open(parent)?, os(self.dirs.name(id)))? {
                    Some(Found::Dir(merged)) => Some(Rc::new(merged)),
                    _ => None,
                },
            };
            below.insert(id, merged.clone());
        }
        Ok(merged)
    }
}
