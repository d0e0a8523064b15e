//! Taking names away, and what stays of a file that lost its last one.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use sys::Dir;

use super::copy_up::Want;
use super::list::Listing;
use super::node::{Body, DirBody, FileState, Gate, Node, Real, Via, lock, write};
use super::work::is_whiteout;
use super::{NodeId, Overlay, Result, errno};
use crate::WhiteoutKind;
use crate::stack::Found as Looked;
use crate::stack::Single;
use crate::whiteout::Opaque;

/// How a file that is about to lose a name is reached afterwards.
pub(super) enum Left {
    /// As before.
    Same,
    /// At its place in a lower layer.
    Path(Box<Path>),
    /// By a descriptor.
    Anchor(OwnedFd),
}

/// Why a change cannot be made yet.
pub(super) enum NotYet {
    /// The file is being copied up.
    Copying(Arc<Gate>),
    /// The file must be copied up first.
    Lower,
}

impl Overlay {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(parent, name, false)
    }

    /// Removes a directory in which the view shows nothing.
    pub fn rmdir(&self, parent: NodeId, name: &OsStr) -> Result<()> {
        self.remove(parent, name, true)
    }

    fn remove(&self, parent: NodeId, name: &OsStr, is_dir: bool) -> Result<()> {
        self.work()?;
        self.check(name)?;
        let parent = self.nodes.get(parent)?;
        let dir = parent.dir()?;
        loop {
            let mut listing = write(&dir.listing);
            self.alive(dir)?;
            let node = self.child_held(&parent, name)?.ok_or(Errno::NOENT)?;
            self.unprotected(&parent)?;
            self.unprotected(&node)?;
            match (&node.body, is_dir) {
                (Body::Dir(_), false) => return Err(Errno::ISDIR),
                (Body::File(_), true) => return Err(Errno::NOTDIR),
                (Body::Dir(_), true) => {
                    self.remove_dir(&parent, &node, name)?;
                    self.leave(dir, name);
                }
                (Body::File(body), false) => {
                    let mut state = lock(&body.state);
                    if let Some(not_yet) = self.removable(&state) {
                        drop((state, listing));
                        self.make_ready(&node, not_yet)?;
                        continue;
                    }
                    self.remove_file(&parent, &mut state, name)?;
                    self.leave(dir, name);
                }
            }
            self.list_removed(&mut listing, name);
            return Ok(());
        }
    }

    /// Whether a file can lose a name now. One of a lower layer with several links is copied up first when there is
    /// an index, which counts those that the view still has.
    pub(super) fn removable(&self, state: &FileState) -> Option<NotYet> {
        if let Some(gate) = &state.copying {
            return Some(NotYet::Copying(gate.clone()));
        }
        let counted =
            self.options.index && !state.keys.is_empty() && matches!(state.real, Real::Lower { .. });
        counted.then_some(NotYet::Lower)
    }

    /// Waits for what stands in the way. Nothing may be locked.
    pub(super) fn make_ready(&self, node: &Arc<Node>, not_yet: NotYet) -> Result<()> {
        match not_yet {
            NotYet::Copying(gate) => {
                let _long = self.long();
                gate.wait(|| self.given_up())
            }
            NotYet::Lower => self.copy_up(node, Want::ALL),
        }
    }

    fn remove_file(&self, parent: &Arc<Node>, state: &mut FileState, name: &OsStr) -> Result<()> {
        let left = self.before_loss(state, parent, name)?;
        let has_upper = matches!(state.real, Real::Upper { .. });
        // Reached by its name in a lower layer: there is something to cover.
        let covers = match &state.real {
            Real::Lower { path: None, .. } => true,
            _ => self.is_below(parent, name)?,
        };
        self.take_away(parent, name, has_upper, covers, false)?;
        self.after_loss(state, parent, name, left)
    }

    fn remove_dir(&self, parent: &Arc<Node>, node: &Arc<Node>, name: &OsStr) -> Result<()> {
        let dir = node.dir()?;
        let mut listing = write(&dir.listing);
        if !self.is_empty(node, &listing)? {
            return Err(Errno::NOTEMPTY);
        }
        // It is still looked at by who has it open.
        self.opened(node)?;
        let has_upper = lock(&dir.state).upper;
        let covers = self.is_below(parent, name)?;
        self.take_away(parent, name, has_upper, covers, true)?;
        removed(dir, &mut listing);
        Ok(())
    }

    /// Takes an entry out of the view: removes the upper one, and `covers` what is below it.
    fn take_away(
        &self,
        parent: &Arc<Node>,
        name: &OsStr,
        has_upper: bool,
        covers: bool,
        is_dir: bool,
    ) -> Result<()> {
        if covers {
            self.copy_up(parent, Want::Metadata)?;
        }
        let work = self.work()?;
        // A name of an indexed file may be in lower layers alone.
        let upper = match has_upper || covers {
            true => self.upper_dir(parent)?,
            false => return Err(Errno::IO),
        };
        let has_upper = has_upper && is_whiteout(&upper, name, self.options.format())? == Some(false);
        if !covers {
            if !is_dir {
                return upper.unlink(name).map_err(errno);
            }
            return match upper.rmdir(name).map_err(errno) {
                // The view is empty: there are only whiteouts in it.
                Err(Errno::NOTEMPTY) => {
                    let temp = work.fresh();
                    upper.rename(name, work.dir(), &temp).map_err(errno)?;
                    work.discard(&temp);
                    Ok(())
                }
                other => other,
            };
        }
        self.mark_whiteouts(&upper)?;
        if !has_upper {
            return work.whiteout(&upper, name);
        }
        let temp = work.fresh();
        work.whiteout(work.dir(), OsStr::new(&temp))?;
        let replaced = match is_dir {
            true => work.dir().exchange(&temp, &upper, name),
            false => work.dir().rename(&temp, &upper, name),
        };
        // The whiteout, if it failed, or the directory.
        if is_dir || replaced.is_err() {
            work.discard(&temp);
        }
        replaced.map_err(errno)
    }

    /// A directory that is about to get a whiteout of the attribute kind says so, for those who list it.
    pub(super) fn mark_whiteouts(&self, upper: &Dir) -> Result<()> {
        use std::os::fd::AsFd;
        if self.options.whiteouts == WhiteoutKind::Device {
            return Ok(());
        }
        match Opaque::read(upper.as_fd(), self.options.prefix).map_err(errno)? {
            Opaque::No => Opaque::Whiteouts
                .write(upper.as_fd(), self.options.prefix)
                .map_err(errno),
            Opaque::Yes | Opaque::Whiteouts => Ok(()),
        }
    }

    /// Whether lower layers have something under a name, which would come to light.
    pub(super) fn is_below(&self, parent: &Arc<Node>, name: &OsStr) -> Result<bool> {
        let open = self.opened(parent)?;
        for part in &open.parts {
            if self.is_upper(part.place.layer) {
                continue;
            }
            let single = self
                .stack
                .with(part, |dir| self.stack.single(dir, name))
                .map_err(errno)?;
            match single {
                Single::Missing => {}
                Single::Whiteout => return Ok(false),
                Single::File(_) | Single::Dir(..) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Sees to it that a new directory shows nothing of what lower layers have under its name. Where no attribute can say
    /// so, each of their names gets a whiteout in it; the kernel's overlay reads that too, and itself answers `EIO` there.
    pub(super) fn hide_below(&self, dir: &Dir, parent: &Arc<Node>, name: &OsStr) -> Result<()> {
        use std::os::fd::AsFd;
        if self.keeps_attributes() {
            return Opaque::Yes.write(dir.as_fd(), self.options.prefix).map_err(errno);
        }
        let open = self.opened(parent)?;
        let below = self.stack.child_among(&open, name, |layer| !self.is_upper(layer));
        let Some(Looked::Dir(merged)) = below.map_err(errno)? else {
            return Ok(());
        };
        let names = self.stack.open(&merged).and_then(|open| self.stack.names(&open));
        for name in names.map_err(errno)? {
            self.work()?.whiteout(dir, &name)?;
        }
        Ok(())
    }

    /// Prepares a file for the loss of a name.
    pub(super) fn before_loss(&self, state: &FileState, parent: &Arc<Node>, name: &OsStr) -> Result<Left> {
        let last = state.names.len() <= 1;
        match &state.real {
            Real::Lower { path: None, .. } if last => {
                Ok(Left::Path(self.lower_place(state)?.path.into_boxed_path()))
            }
            Real::Upper { via: Via::Name, .. } if last => {
                self.entry_in(state, |entry| entry.pin()).map(Left::Anchor)
            }
            Real::Upper {
                via: Via::Index(indexed),
                ..
            } => {
                let anchor = match indexed.nlink <= 1 {
                    true => Left::Anchor(self.entry_in(state, |entry| entry.pin())?),
                    false => Left::Same,
                };
                // The upper file loses a link in the same moment as the view; for that it must have it.
                self.copy_up(parent, Want::Metadata)?;
                self.ensure_named(state, parent, name)?;
                self.nlink_by_upper(indexed)?;
                Ok(anchor)
            }
            _ => Ok(Left::Same),
        }
    }

    /// A file lost a name.
    pub(super) fn after_loss(
        &self,
        state: &mut FileState,
        parent: &Arc<Node>,
        name: &OsStr,
        left: Left,
    ) -> Result<()> {
        let lost = state
            .names
            .iter()
            .position(|known| Arc::ptr_eq(&known.parent, parent) && &*known.name == name);
        if let Some(at) = lost {
            state.names.remove(at);
        }
        match &mut state.real {
            Real::Lower { path, .. } => {
                if let Left::Path(place) = left {
                    *path = Some(place);
                }
            }
            Real::Upper { via, .. } => {
                if let Via::Index(indexed) = via {
                    indexed.nlink -= 1;
                    if indexed.nlink <= 0 {
                        // The name is gone: what remains of the entry is found by the next overlay.
                        let _ = self.remove_entry(indexed);
                    }
                }
                if let Left::Anchor(fd) = left {
                    *via = Via::Anchor(fd);
                }
            }
        }
        Ok(())
    }
}

/// A directory is gone.
pub(super) fn removed(dir: &DirBody, listing: &mut Option<Listing>) {
    *listing = None;
    let mut state = lock(&dir.state);
    state.name = None;
    state.removed = true;
}
