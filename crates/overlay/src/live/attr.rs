//! Status: what the view shows of a node, and changing it.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::copy_up::Want;
use super::node::{Body, Node, Real, Via, lock};
use super::place::Entry;
use super::{NodeId, OpenFile, Overlay, Result};

/// A time to set.
#[derive(Debug, Clone, Copy)]
pub enum SetTime {
    /// The moment of the call.
    Now,
    /// This one.
    At(Timespec),
}

/// What to change; `None` stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    /// Permission bits, 12 of them.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size, in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last modification.
    pub mtime: Option<SetTime>,
    /// The caller may not keep set-id bits: a regular file loses set-user-id, and set-group-id where its group may
    /// execute it.
    pub kill_suidgid: bool,
}

/// Set-id bits go.
const KILL: SetAttr = SetAttr {
    mode: None,
    uid: None,
    gid: None,
    size: None,
    atime: None,
    mtime: None,
    kill_suidgid: true,
};

/// Changes permission bits through the very inode.
pub(super) fn chmod(entry: &Entry<'_>, mode: u32) -> Result<()> {
    let pinned;
    let fd = match entry {
        Entry::At(..) => {
            pinned = entry.pin()?;
            pinned.as_fd()
        }
        Entry::Fd(fd) => match fs::fchmod(fd, Mode::from_raw_mode(mode)) {
            // `O_PATH`.
            Err(Errno::BADF) => *fd,
            other => return other,
        },
    };
    fs::chmodat(
        CWD,
        sys::xattr::path_of(fd).as_os_str(),
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )
}

pub(super) fn chown(entry: &Entry<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    match entry {
        Entry::At(dir, name) => fs::chownat(dir, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        Entry::Fd(fd) => fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
    }
}

pub(super) fn set_times(entry: &Entry<'_>, times: &Timestamps) -> Result<()> {
    match entry {
        Entry::At(dir, name) => fs::utimensat(dir, *name, times, AtFlags::SYMLINK_NOFOLLOW),
        Entry::Fd(fd) => fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH),
    }
}

/// The times of a status.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

fn timespec(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_OMIT as _,
        },
        Some(SetTime::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: fs::UTIME_NOW as _,
        },
        Some(SetTime::At(time)) => time,
    }
}

/// The mode without the bits that a caller without privilege may not keep.
pub(super) fn without_suidgid(mode: u32) -> u32 {
    let sgid = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & 0o7777 & !(0o4000 | sgid)
}

impl Overlay {
    /// The status of a node, of an open file when one is given.
    pub fn getattr(&self, node: NodeId, file: Option<&OpenFile>) -> Result<Stat> {
        let node = match file {
            Some(file) => file.node().clone(),
            None => self.nodes.get(node)?,
        };
        self.attr(&node)
    }

    /// When the file was made, where its file system says.
    pub fn birth_time(&self, node: NodeId) -> Result<Option<Timespec>> {
        let node = self.nodes.get(node)?;
        self.entry(&node, |entry| {
            let statx = match &entry {
                Entry::At(dir, name) => fs::statx(dir, *name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME),
                Entry::Fd(fd) => fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME),
            }?;
            let known = StatxFlags::from_bits_retain(statx.stx_mask).contains(StatxFlags::BTIME);
            Ok(known.then_some(Timespec {
                tv_sec: statx.stx_btime.tv_sec,
                tv_nsec: statx.stx_btime.tv_nsec as _,
            }))
        })
    }

    pub(super) fn attr(&self, node: &Arc<Node>) -> Result<Stat> {
        self.attr_from(node, None)
    }

    /// As [`Overlay::attr`], from the status of the real file when the caller has just read it.
    pub(super) fn attr_from(&self, node: &Arc<Node>, real: Option<Stat>) -> Result<Stat> {
        let mut stat = match &node.body {
            Body::Dir(dir) => {
                let mut stat = match real {
                    Some(stat) => stat,
                    None => self.entry(node, |entry| entry.stat())?,
                };
                let state = lock(&dir.state);
                if state.removed {
                    stat.st_nlink = 0;
                } else if self.options.static_nlink
                    || state.upper && !state.lower.is_empty()
                    || state.lower.len() > 1
                {
                    // As the kernel's: nobody counted the subdirectories of all parts.
                    stat.st_nlink = 1;
                }
                stat
            }
            Body::File(file) => {
                let state = lock(&file.state);
                let mut stat = match (real, &state.real) {
                    // It was read by its name; its entry in the index is another file.
                    (
                        _,
                        Real::Upper {
                            via: Via::Index(_), ..
                        },
                    )
                    | (None, _) => self.entry_in(&state, |entry| entry.stat())?,
                    (Some(stat), _) => stat,
                };
                match &state.real {
                    Real::Upper {
                        via: Via::Index(indexed),
                        ..
                    } => stat.st_nlink = indexed.nlink.max(0) as _,
                    // Removed: only its lower file is left.
                    Real::Lower { path: Some(_), .. } if state.names.is_empty() => stat.st_nlink = 0,
                    _ => {}
                }
                if let Real::Upper { data: Some(data), .. } = &state.real {
                    let (dir, name) = self.stack.parent_of(data).map_err(super::errno)?;
                    stat.st_blocks = Entry::At(&dir, &name).stat()?.st_blocks;
                }
                stat
            }
        };
        stat.st_ino = node.ino;
        self.with_owner(node, &mut stat)?;
        (stat.st_uid, stat.st_gid) = self.options.ids.to_view(stat.st_uid, stat.st_gid);
        Ok(stat)
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>> {
        let node = self.nodes.get(node)?;
        self.entry(&node, |entry| entry.read_link())
    }

    /// Changes the status of a node; through an open file when one is given. What it is afterwards.
    pub fn setattr(&self, node: NodeId, set: &SetAttr, file: Option<&OpenFile>) -> Result<Stat> {
        self.work()?;
        let node = match file {
            Some(file) => file.node().clone(),
            None => self.nodes.get(node)?,
        };
        self.may_change(&node, set)?;
        let ids = &self.options.ids;
        let uid = set.uid.map(|uid| ids.uid_to_layer(uid).ok_or(Errno::INVAL));
        let gid = set.gid.map(|gid| ids.gid_to_layer(gid).ok_or(Errno::INVAL));
        let (uid, gid) = (uid.transpose()?, gid.transpose()?);
        self.copy_up(
            &node,
            match set.size {
                Some(size) => Want::Data { up_to: size },
                None => Want::Metadata,
            },
        )?;
        let regular = matches!(&node.body, Body::File(body) if body.kind == FileType::RegularFile);
        if let Some(size) = set.size {
            match file {
                Some(file) if file.is_writable() => fs::ftruncate(&*file.file(self)?, size)?,
                _ => {
                    let opened = self.entry(&node, |entry| entry.open(OFlags::WRONLY | OFlags::NONBLOCK))?;
                    fs::ftruncate(&opened, size)?;
                }
            }
        }
        let change = |entry: Entry<'_>| {
            if self.kept_owners().is_some() {
                self.change_owner(&entry, (uid, gid), set)?;
                self.set_times_asked(&entry, set)?;
                return entry.stat();
            }
            let given_away = uid.is_some() || gid.is_some();
            if given_away {
                chown(&entry, uid, gid)?;
            }
            let mut mode = set.mode;
            // A change of owner takes the bits away by itself.
            if set.kill_suidgid && regular && !(given_away && mode.is_none()) {
                let now = match mode {
                    Some(mode) => mode,
                    None => entry.stat()?.st_mode,
                };
                let kept = without_suidgid(now);
                if kept != now & 0o7777 || mode.is_some() {
                    mode = Some(kept);
                }
            }
            if let Some(mode) = mode {
                chmod(&entry, mode & 0o7777)?;
            }
            self.set_times_asked(&entry, set)?;
            entry.stat()
        };
        let stat = match file {
            // Shorter than by its name, of which each call would make a path walk.
            Some(file) if file.is_upper() => change(Entry::Fd(file.file(self)?.as_fd())),
            _ => self.entry(&node, change),
        }?;
        self.attr_from(&node, Some(stat))
    }

    fn set_times_asked(&self, entry: &Entry<'_>, set: &SetAttr) -> Result<()> {
        if set.atime.is_none() && set.mtime.is_none() {
            return Ok(());
        }
        let times = Timestamps {
            last_access: timespec(set.atime),
            last_modification: timespec(set.mtime),
        };
        set_times(entry, &times)
    }

    /// `EPERM` for what a file that is append-only or immutable does not allow. Its times can be set to now where it can
    /// be appended to.
    fn may_change(&self, node: &Arc<Node>, set: &SetAttr) -> Result<()> {
        let at = |time: Option<SetTime>| matches!(time, Some(SetTime::At(_)));
        let ids = set.mode.is_some() || set.uid.is_some() || set.gid.is_some();
        if ids || set.size.is_some() || at(set.atime) || at(set.mtime) {
            return self.unprotected(node);
        }
        match set.atime.is_some() || set.mtime.is_some() {
            true => self.mutable(node),
            false => Ok(()),
        }
    }

    /// A change of neither owner nor group. It takes set-id bits away, and is therefore refused (`EPERM`) to one of whom
    /// `may` says that he may not do what the owner may.
    pub fn chown_nothing(&self, node: NodeId, may: impl FnOnce(u32) -> bool) -> Result<()> {
        self.work()?;
        let node = self.nodes.get(node)?;
        let stat = self.attr(&node)?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let loses = regular && without_suidgid(stat.st_mode) != stat.st_mode & 0o7777;
        if loses && !may(stat.st_uid) {
            return Err(Errno::PERM);
        }
        if loses {
            self.unprotected(&node)?;
        }
        self.copy_up(&node, Want::Metadata)?;
        // The file system takes them, and sets the time of the change.
        self.entry(&node, |entry| match self.kept_owners() {
            Some(_) if loses => self.change_owner(&entry, (None, None), &KILL),
            _ => chown(&entry, None, None),
        })
    }

    /// Takes set-id bits from a regular file of the upper layer, and its capabilities, as a write by somebody
    /// without privilege does.
    pub fn kill_suidgid(&self, node: &OpenFile) -> Result<()> {
        self.entry(node.node(), |entry| {
            if self.kept_owners().is_some() {
                return self.change_owner(&entry, (None, None), &KILL);
            }
            let mode = entry.stat()?.st_mode;
            match without_suidgid(mode) {
                kept if kept != mode & 0o7777 => chmod(&entry, kept),
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_that_a_write_clears() {
        assert_eq!(without_suidgid(0o104755), 0o755);
        assert_eq!(without_suidgid(0o102755), 0o755);
        // Without group execution the bit once meant mandatory locking, and stays.
        assert_eq!(without_suidgid(0o102745), 0o2745);
    }
}
