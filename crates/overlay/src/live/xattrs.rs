//! Extended attributes as the view shows them: the overlay's own hidden, those of a nested overlay unescaped.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;

use rustix::fs::{self, XattrFlags};
use rustix::io::Errno;
use sys::xattr::{MAX_SIZE, path_at, path_of};

use super::node::{Body, Node, Real, lock};
use super::place::Entry;
use super::{NodeId, Overlay, Result};
use crate::stat_override;

/// What the names of access lists begin with.
pub(super) const ACLS: &[u8] = b"system.posix_acl_";

/// The attribute that holds a file's capabilities.
const CAPABILITY: &str = "security.capability";

/// A path of the entry, whose last component must not be followed when the flag is set.
fn path(entry: &Entry<'_>) -> (OsString, bool) {
    match entry {
        Entry::At(dir, name) => (path_at(std::os::fd::AsFd::as_fd(*dir), name), true),
        Entry::Fd(fd) => (path_of(*fd), false),
    }
}

fn is_acl(name: &OsStr) -> bool {
    name.as_bytes().starts_with(ACLS)
}

fn sized(mut call: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 256];
    loop {
        match call(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < MAX_SIZE => buffer.resize(MAX_SIZE, 0),
            Err(error) => return Err(error),
        }
    }
}

/// The value as the layer stores it, with the system's own errors.
pub(super) fn get_raw(entry: &Entry<'_>, name: &OsStr) -> Result<Vec<u8>> {
    let (path, link) = path(entry);
    let path = path.as_os_str();
    match link {
        true => sized(|buffer| fs::lgetxattr(path, name, buffer)),
        false => sized(|buffer| fs::getxattr(path, name, buffer)),
    }
}

/// The value, or `None` where there is none.
pub(super) fn get(entry: &Entry<'_>, name: &str) -> Result<Option<Vec<u8>>> {
    match get_raw(entry, OsStr::new(name)) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn set_raw(entry: &Entry<'_>, name: &OsStr, value: &[u8], flags: XattrFlags) -> Result<()> {
    let (path, link) = path(entry);
    match link {
        true => fs::lsetxattr(path.as_os_str(), name, value, flags),
        false => fs::setxattr(path.as_os_str(), name, value, flags),
    }
}

/// Sets one, made or replaced.
pub(super) fn set(entry: &Entry<'_>, name: &str, value: &[u8]) -> Result<()> {
    set_raw(entry, OsStr::new(name), value, XattrFlags::empty())
}

/// Removes one, if it is there.
pub(super) fn remove(entry: &Entry<'_>, name: &str) -> Result<()> {
    let (path, link) = path(entry);
    let removed = match link {
        true => fs::lremovexattr(path.as_os_str(), name),
        false => fs::removexattr(path.as_os_str(), name),
    };
    match removed {
        Err(Errno::NODATA) => Ok(()),
        other => other,
    }
}

/// Names as the layer stores them.
pub(super) fn list_raw(entry: &Entry<'_>) -> Result<Vec<OsString>> {
    let (path, link) = path(entry);
    let path = path.as_os_str();
    let list = match link {
        true => sized(|buffer| fs::llistxattr(path, buffer)),
        false => sized(|buffer| fs::listxattr(path, buffer)),
    };
    let list = match list {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    Ok(list
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect())
}

impl Overlay {
    /// Whether the view does not show an attribute that a layer has.
    pub(super) fn is_private(&self, name: &OsStr) -> bool {
        self.options.prefix.is_private(name) || self.is_foreign(name)
    }

    fn is_foreign(&self, name: &OsStr) -> bool {
        self.options.foreign_attributes && stat_override::is_foreign(name)
    }

    /// The name under which the layers store an attribute.
    fn stored<'a>(&self, name: &'a OsStr) -> Cow<'a, OsStr> {
        self.options.prefix.to_layer(name)
    }

    /// The value of an attribute; `ENODATA` when there is none.
    pub fn getxattr(&self, node: NodeId, name: &OsStr) -> Result<Vec<u8>> {
        let node = self.nodes.get(node)?;
        if name == CAPABILITY
            && let Body::File(file) = &node.body
            && file.incapable.load(Ordering::Acquire)
        {
            return Err(Errno::NODATA);
        }
        if self.is_foreign(name) {
            return Err(Errno::NODATA);
        }
        let stored = self.stored(name);
        self.entry(&node, |entry| get_raw(&entry, &stored))
    }

    /// The names of all attributes, each ended by a NUL. Those of the prefix `trusted.` are only shown when asked:
    /// a program without privilege does not see them.
    pub fn listxattr(&self, node: NodeId, trusted: bool) -> Result<Vec<u8>> {
        let node = self.nodes.get(node)?;
        let names = self.entry(&node, |entry| list_raw(&entry))?;
        let mut list = Vec::new();
        for name in &names {
            let Some(shown) = self.options.prefix.to_view(name) else {
                continue;
            };
            if self.is_foreign(&shown) {
                continue;
            }
            if trusted || !shown.as_bytes().starts_with(b"trusted.") {
                list.extend_from_slice(shown.as_bytes());
                list.push(0);
            }
        }
        Ok(list)
    }

    /// Sets an attribute. `clear_sgid`: the caller may not keep a set-group-id bit (an ACL was set by somebody who
    /// is not in the file's group).
    pub fn setxattr(
        &self,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: XattrFlags,
        clear_sgid: bool,
    ) -> Result<()> {
        self.work()?;
        let node = self.nodes.get(node)?;
        let stored = self.stored(name);
        self.unprotected(&node)?;
        if self.is_foreign(name) {
            return Err(Errno::PERM);
        }
        self.copy_up(&node, super::copy_up::Want::Metadata)?;
        if name == CAPABILITY
            && let Body::File(file) = &node.body
        {
            file.incapable.store(false, Ordering::Release);
        }
        self.entry(&node, |entry| {
            set_raw(&entry, &stored, value, flags)?;
            if clear_sgid {
                let mode = entry.stat()?.st_mode;
                super::attr::chmod(&entry, mode & 0o7777 & !0o2000)?;
            }
            Ok(())
        })
    }

    /// Removes an attribute; `ENODATA` when there is none. An access list that is not there can be removed from what lies
    /// in the upper layer, as from any file: so the kernel's overlay has it, too.
    pub fn removexattr(&self, node: NodeId, name: &OsStr) -> Result<()> {
        self.work()?;
        let node = self.nodes.get(node)?;
        let stored = self.stored(name);
        self.unprotected(&node)?;
        if self.is_foreign(name) {
            return Err(Errno::NODATA);
        }
        // Not worth a copy-up when there is nothing to remove.
        match self.entry(&node, |entry| get_raw(&entry, &stored).map(drop)) {
            Err(Errno::NODATA) if is_acl(name) && self.is_in_upper(&node) => {}
            other => other?,
        }
        self.copy_up(&node, super::copy_up::Want::Metadata)?;
        self.entry(&node, |entry| {
            let (path, link) = path(&entry);
            match link {
                true => fs::lremovexattr(path.as_os_str(), &*stored),
                false => fs::removexattr(path.as_os_str(), &*stored),
            }
        })
    }
    fn is_in_upper(&self, node: &Node) -> bool {
        match &node.body {
            Body::Dir(dir) => lock(&dir.state).upper,
            Body::File(file) => matches!(lock(&file.state).real, Real::Upper { .. }),
        }
    }
}
