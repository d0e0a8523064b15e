//! Flags of inodes that chattr(1) sets, as the kernel's overlay has them.
//!
//! Append-only and immutable are the view's: a file of the upper layer does not have them itself, because the overlay
//! must still be able to change it, and says so in its attribute `protattr` (`a`, `i`). The front end knows nothing of
//! them, so every change asks here first. All other flags are those of the real file; `S` and `A` (synchronous, no time
//! of access) go along with a copy-up.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use sys::inode_flags::{self, Extended, IFlags};

use super::copy_up::Want;
use super::node::{Body, Node, Real, lock};
use super::place::Entry;
use super::{NodeId, OpenFile, Overlay, Result, errno, xattrs};
use crate::xattr::PROTATTR;

/// Flags that the view keeps apart from the real file.
const PROTECTING: IFlags = IFlags::APPEND.union(IFlags::IMMUTABLE);

/// Flags that go along with a copy-up.
const COPIED: IFlags = IFlags::SYNC.union(IFlags::NOATIME);

/// What protects a node, once it was looked at.
#[derive(Debug, Default)]
pub(super) struct Protection(AtomicU8);

/// Neither bit: it was looked at, and nothing was found.
const LOOKED_AT: u8 = 1;
const APPEND: u8 = 2;
const IMMUTABLE: u8 = 4;

impl Protection {
    /// Nothing protects what was just made.
    pub(super) fn none(&self) {
        self.0.store(LOOKED_AT, Ordering::Release);
    }

    fn note(&self, flags: IFlags) {
        let append = if flags.contains(IFlags::APPEND) { APPEND } else { 0 };
        let immutable = if flags.contains(IFlags::IMMUTABLE) {
            IMMUTABLE
        } else {
            0
        };
        self.0.store(LOOKED_AT | append | immutable, Ordering::Release);
    }

    fn get(&self) -> Option<IFlags> {
        let bits = self.0.load(Ordering::Acquire);
        let mut flags = IFlags::empty();
        flags.set(IFlags::APPEND, bits & APPEND != 0);
        flags.set(IFlags::IMMUTABLE, bits & IMMUTABLE != 0);
        (bits != 0).then_some(flags)
    }
}

/// A value of `protattr`.
fn letters(flags: IFlags) -> Vec<u8> {
    let known = [(IFlags::APPEND, b'a'), (IFlags::IMMUTABLE, b'i')];
    let set = known.iter().filter(|(flag, _)| flags.contains(*flag));
    set.map(|(_, letter)| *letter).collect()
}

/// The reverse; letters that are not known end it, as in the kernel's.
fn parse(value: &[u8]) -> IFlags {
    let mut flags = IFlags::empty();
    for letter in value {
        match letter {
            b'a' => flags |= IFlags::APPEND,
            b'i' => flags |= IFlags::IMMUTABLE,
            _ => break,
        }
    }
    flags
}

impl Overlay {
    /// Append-only, immutable, or neither.
    fn protection(&self, node: &Arc<Node>) -> Result<IFlags> {
        if let Some(known) = node.protection().get() {
            return Ok(known);
        }
        let flags = match &node.body {
            Body::Dir(dir) => {
                let upper = lock(&dir.state).upper;
                self.entry(node, |entry| self.protection_of(&entry, upper))?
            }
            Body::File(file) => {
                let state = lock(&file.state);
                let upper = matches!(state.real, Real::Upper { .. });
                self.entry_in(&state, |entry| self.protection_of(&entry, upper))?
            }
        };
        node.protection().note(flags);
        Ok(flags)
    }

    fn protection_of(&self, entry: &Entry<'_>, upper: bool) -> Result<IFlags> {
        if upper {
            let value = xattrs::get(entry, &self.options.prefix.name(PROTATTR))?;
            return Ok(value.as_deref().map_or(IFlags::empty(), parse));
        }
        let stat = match entry {
            Entry::At(dir, name) => statx(dir, *name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE),
            Entry::Fd(fd) => statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE),
        }?;
        let mut flags = IFlags::empty();
        let has = |attribute| stat.stx_attributes.contains(attribute);
        flags.set(IFlags::APPEND, has(StatxAttributes::APPEND));
        flags.set(IFlags::IMMUTABLE, has(StatxAttributes::IMMUTABLE));
        Ok(flags)
    }

    /// `EPERM` for a node that is immutable.
    pub(super) fn mutable(&self, node: &Arc<Node>) -> Result<()> {
        match self.protection(node)?.contains(IFlags::IMMUTABLE) {
            true => Err(Errno::PERM),
            false => Ok(()),
        }
    }

    /// `EPERM` for a node that is append-only or immutable: it keeps its names, attributes and length, and a directory
    /// the names in it.
    pub(super) fn unprotected(&self, node: &Arc<Node>) -> Result<()> {
        match self.protection(node)?.is_empty() {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    /// `EPERM` for an open that would write where that is not allowed, or not but at the end.
    pub(super) fn writable(&self, node: &Arc<Node>, flags: OFlags) -> Result<()> {
        match flags.contains(OFlags::APPEND) && !flags.contains(OFlags::TRUNC) {
            true => self.mutable(node),
            false => self.unprotected(node),
        }
    }

    /// `EPERM` where space of an open file cannot be changed this way.
    pub fn may_allocate(&self, file: &OpenFile, mode: FallocateFlags) -> Result<()> {
        match FallocateFlags::KEEP_SIZE.contains(mode) {
            true => self.mutable(file.node()),
            false => self.unprotected(file.node()),
        }
    }

    /// The flags of a file or directory. `ENOTTY` where the layer's file system has none.
    pub fn flags(&self, node: NodeId) -> Result<IFlags> {
        let node = self.nodes.get(node)?;
        let protection = self.protection(&node)?;
        let real = self.opened_for_flags(&node, |file| inode_flags::get(file).map_err(errno))?;
        Ok(real.difference(PROTECTING) | protection)
    }

    /// Sets them, all at once. Who may is for the front end to know.
    pub fn set_flags(&self, node: NodeId, flags: IFlags) -> Result<()> {
        let node = self.nodes.get(node)?;
        self.copy_up(&node, Want::ALL)?;
        self.protect(&node, flags & PROTECTING)?;
        let real = flags.difference(PROTECTING);
        self.opened_for_flags(&node, |file| inode_flags::set(file, real).map_err(errno))
    }

    /// As [`Overlay::flags`], in the longer form.
    pub fn extended_flags(&self, node: NodeId) -> Result<Extended> {
        let node = self.nodes.get(node)?;
        let protection = self.protection(&node)?;
        let mut extended = self.opened_for_flags(&node, |file| Extended::get(file.as_fd()).map_err(errno))?;
        extended.flags &= !(Extended::APPEND | Extended::IMMUTABLE);
        for (flag, extended_flag) in [
            (IFlags::APPEND, Extended::APPEND),
            (IFlags::IMMUTABLE, Extended::IMMUTABLE),
        ] {
            if protection.contains(flag) {
                extended.flags |= extended_flag;
            }
        }
        Ok(extended)
    }

    /// As [`Overlay::set_flags`], in the longer form.
    pub fn set_extended_flags(&self, node: NodeId, extended: &Extended) -> Result<()> {
        let node = self.nodes.get(node)?;
        self.copy_up(&node, Want::ALL)?;
        let mut protection = IFlags::empty();
        protection.set(IFlags::APPEND, extended.flags & Extended::APPEND != 0);
        protection.set(IFlags::IMMUTABLE, extended.flags & Extended::IMMUTABLE != 0);
        self.protect(&node, protection)?;
        let mut real = *extended;
        real.flags &= !(Extended::APPEND | Extended::IMMUTABLE);
        self.opened_for_flags(&node, |file| real.set(file.as_fd()).map_err(errno))
    }

    fn opened_for_flags<R>(
        &self,
        node: &Arc<Node>,
        act: impl FnOnce(&std::fs::File) -> Result<R>,
    ) -> Result<R> {
        let open = OFlags::RDONLY | OFlags::NONBLOCK;
        act(&self.entry(node, |entry| entry.open(open))?)
    }

    fn protect(&self, node: &Arc<Node>, protection: IFlags) -> Result<()> {
        if self.protection(node)? == protection {
            return Ok(());
        }
        let attribute = self.options.prefix.name(PROTATTR);
        self.entry(node, |entry| match protection.is_empty() {
            true => xattrs::remove(&entry, &attribute),
            false => xattrs::set(&entry, &attribute, &letters(protection)),
        })?;
        node.protection().note(protection);
        Ok(())
    }

    /// What of the flags of a lower file or directory goes along with its copy. Both are open.
    pub(super) fn copy_flags(&self, from: impl AsFd, to: impl AsFd) -> Result<()> {
        // A file system without flags has none to copy.
        let Ok(flags) = inode_flags::get(from) else {
            return Ok(());
        };
        if flags.intersects(PROTECTING) {
            let attribute = self.options.prefix.name(PROTATTR);
            xattrs::set(&Entry::Fd(to.as_fd()), &attribute, &letters(flags))?;
        }
        if flags.intersects(COPIED)
            && let Ok(own) = inode_flags::get(&to)
        {
            inode_flags::set(&to, own | (flags & COPIED)).map_err(errno)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_of_the_attribute() {
        let both = IFlags::APPEND | IFlags::IMMUTABLE;
        assert_eq!(letters(both | IFlags::SYNC), b"ai");
        assert_eq!(parse(b"ia"), both);
        assert_eq!(parse(b"i?a"), IFlags::IMMUTABLE);
        assert_eq!(parse(b""), IFlags::empty());
    }

    #[test]
    fn what_was_looked_at_is_known() {
        let protection = Protection::default();
        assert_eq!(protection.get(), None);
        protection.none();
        assert_eq!(protection.get(), Some(IFlags::empty()));
        protection.note(IFlags::IMMUTABLE | IFlags::SYNC);
        assert_eq!(protection.get(), Some(IFlags::IMMUTABLE));
    }
}
