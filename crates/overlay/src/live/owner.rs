//! Owners and modes that are kept in an attribute: [`crate::stat_override`].
//!
//! Where the upper layer keeps them so, its files belong to whoever serves the overlay, who can always read and write
//! them, and the attribute says what the view shows. What takes no such attribute (a link, a device, where it is one of
//! the kind `user.`) shows its own.

use std::sync::Arc;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use super::attr::{chmod, without_suidgid};
use super::node::{Body, Node, Real, lock};
use super::place::Entry;
use super::{Caller, Overlay, Result, SetAttr, xattrs};
use crate::stat_override::{self, Override};

/// Which attribute, if any, each layer keeps owners in.
#[derive(Debug, Default)]
pub(super) struct Owners {
    of_layer: Vec<Option<&'static str>>,
}

impl Owners {
    /// Of layers, by their roots. `written`: the attribute that the first, which is then the upper, is to have.
    pub(super) fn of(layers: &[sys::Dir], written: Option<&'static str>) -> std::io::Result<Owners> {
        use std::os::fd::AsFd;
        let known = |layer: &sys::Dir| -> std::io::Result<Option<&'static str>> {
            for name in stat_override::NAMES {
                if sys::xattr::get(layer.as_fd(), name)?.is_some() {
                    return Ok(Some(name));
                }
            }
            Ok(None)
        };
        let mut of_layer = layers.iter().map(known).collect::<std::io::Result<Vec<_>>>()?;
        if let (Some(name), Some(upper), Some(first)) = (written, layers.first(), of_layer.first_mut())
            && first.is_none()
        {
            let value = Override::of(&upper.metadata()?).encode();
            sys::xattr::set(upper.as_fd(), name, value.as_bytes())?;
            *first = Some(name);
        }
        Ok(Owners { of_layer })
    }

    fn any(&self) -> bool {
        self.of_layer.iter().any(Option::is_some)
    }

    fn of_layer(&self, layer: usize) -> Option<&'static str> {
        self.of_layer.get(layer).copied().flatten()
    }
}

impl Overlay {
    /// The attribute that owners of the upper layer are kept in.
    pub(super) fn kept_owners(&self) -> Option<&'static str> {
        self.owners.of_layer(0).filter(|_| self.is_writable())
    }

    /// Puts into the status of a node what its layer says of owner and mode.
    pub(super) fn with_owner(&self, node: &Arc<Node>, stat: &mut Stat) -> Result<()> {
        if !self.owners.any() {
            return Ok(());
        }
        match &node.body {
            Body::Dir(_) => {
                let layer = self.opened(node)?.parts[0].place.layer;
                self.entry(node, |entry| self.with_owner_in(layer, &entry, stat))
            }
            Body::File(file) => {
                let state = lock(&file.state);
                let layer = match &state.real {
                    Real::Lower { layer, .. } => *layer,
                    Real::Upper { .. } => 0,
                };
                self.entry_in(&state, |entry| self.with_owner_in(layer, &entry, stat))
            }
        }
    }

    /// The same, of an entry of a layer.
    pub(super) fn with_owner_in(&self, layer: usize, entry: &Entry<'_>, stat: &mut Stat) -> Result<()> {
        let Some(name) = self.owners.of_layer(layer) else {
            return Ok(());
        };
        if let Some(value) = xattrs::get(entry, name)?
            && let Some(says) = Override::parse(&value)
        {
            says.apply(stat);
        }
        Ok(())
    }

    /// Gives an entry of the upper layer the owner and mode that the view shall show.
    pub(super) fn write_owner(&self, entry: &Entry<'_>, kind: FileType, shown: Override) -> Result<()> {
        let name = self.kept_owners().ok_or(Errno::IO)?;
        match xattrs::set(entry, name, shown.encode().as_bytes()) {
            Err(Errno::PERM) if name != stat_override::PRIVILEGED => return Ok(()),
            other => other?,
        }
        // Ours to read and write, and nothing that another could gain by.
        match kind {
            FileType::Symlink => Ok(()),
            FileType::Directory => chmod(entry, shown.mode & 0o777 | 0o700),
            _ => chmod(entry, shown.mode & 0o777 | 0o600),
        }
    }

    /// Owner and mode of what `caller` has just made in a directory.
    pub(super) fn owner_of_new(
        &self,
        parent: &Arc<Node>,
        entry: &Entry<'_>,
        mode: u32,
        caller: Caller,
    ) -> Result<()> {
        let kind = FileType::from_raw_mode(entry.stat()?.st_mode);
        let mut above = self.entry(parent, |entry| entry.stat())?;
        self.with_owner(parent, &mut above)?;
        let inherits = above.st_mode & 0o2000 != 0;
        let mut mode = mode & 0o7777 & !caller.umask;
        if inherits && kind == FileType::Directory {
            mode |= 0o2000;
        }
        let ids = &self.options.ids;
        let gid = if inherits {
            above.st_gid
        } else {
            ids.gid_to_layer(caller.gid).ok_or(Errno::OVERFLOW)?
        };
        let uid = ids.uid_to_layer(caller.uid).ok_or(Errno::OVERFLOW)?;
        self.write_owner(entry, kind, Override { uid, gid, mode })
    }

    /// Changes owner and mode of an entry of the upper layer as a SETATTR asks, ids being the layer's.
    pub(super) fn change_owner(
        &self,
        entry: &Entry<'_>,
        (uid, gid): (Option<u32>, Option<u32>),
        set: &SetAttr,
    ) -> Result<()> {
        let mut stat = entry.stat()?;
        self.with_owner_in(0, entry, &mut stat)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let owned = uid.is_some() || gid.is_some();
        let mut shown = Override::of(&stat);
        shown.uid = uid.unwrap_or(shown.uid);
        shown.gid = gid.unwrap_or(shown.gid);
        shown.mode = set.mode.unwrap_or(shown.mode) & 0o7777;
        if kind == FileType::RegularFile && (set.kill_suidgid || owned && set.mode.is_none()) {
            shown.mode = without_suidgid(shown.mode);
        }
        if shown == Override::of(&stat) {
            return Ok(());
        }
        self.write_owner(entry, kind, shown)
    }
}
