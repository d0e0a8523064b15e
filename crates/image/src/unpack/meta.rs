//! Owner, mode, attributes and times: what is set on a thing once it is there.
//!
//! The order matters: `chown` takes set-id bits and `security.capability` away, writing data takes that attribute
//! away, and everything changes times. So: data, owner, mode, attributes, times.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use overlay::Prefix;
use rustix::fs::{FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid};
use sys::{Dir, xattr};

use super::Form;
use super::dirs::os;
use crate::tar::{Entry, Time};

/// Attributes that mean something only on the machine that made the archive: labels of its security policy, and
/// access lists of its network file system. podman and umoci leave them out too.
pub(super) const HOST_ONLY: [&[u8]; 2] = [b"security.selinux", b"system.nfs4_acl"];

/// What is set on a thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) atime: Time,
    /// Under the names that the layer stores them with.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An error, and what was being done.
pub(super) type Failed = (String, io::Error);

fn doing(what: &str) -> impl FnOnce(io::Error) -> Failed {
    let what = what.to_owned();
    move |error| (what, error)
}

/// Bits that are given to a thing when it is made; the set-id bits come after the owner.
pub(super) fn first_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o1777)
}

impl Meta {
    /// What a directory gets that neither this layer nor one below says anything about. The time is the epoch, so
    /// that a layer unpacks the same whenever it is done.
    pub(super) fn unlisted() -> Meta {
        Meta {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            atime: Time::default(),
            xattrs: Vec::new(),
        }
    }

    /// What an entry says. Without a time of access its other time stands for it.
    pub(super) fn of_entry(entry: &Entry, form: Form) -> Meta {
        let prefix = form.overlay.prefix;
        let stored = |(name, value): &(Vec<u8>, Vec<u8>)| {
            use std::os::unix::ffi::OsStrExt;
            (prefix.to_layer(os(name)).as_bytes().to_vec(), value.clone())
        };
        let kept = entry
            .xattrs
            .iter()
            .filter(|(name, _)| !HOST_ONLY.contains(&name.as_slice()) && form.takes_attribute(name));
        let (uid, gid) = form.owner(entry.uid, entry.gid);
        Meta {
            mode: entry.mode,
            uid,
            gid,
            mtime: entry.mtime,
            atime: entry.atime.unwrap_or(entry.mtime),
            xattrs: kept.map(stored).collect(),
        }
    }

    /// What something in a layer below has, with the attributes `xattrs`. When it was last read is nobody's
    /// business; its other time stands for that.
    pub(super) fn of_stat(stat: &Stat, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Meta {
        let mtime = Time {
            secs: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        };
        Meta {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime,
            atime: mtime,
            xattrs,
        }
    }

    fn times(&self) -> Timestamps {
        let time = |time: Time| Timespec {
            tv_sec: time.secs,
            tv_nsec: time.nanos.into(),
        };
        Timestamps {
            last_access: time(self.atime),
            last_modification: time(self.mtime),
        }
    }

    /// Sets everything on an open file or directory whose data is complete. Returns its status.
    pub(super) fn set_on(&self, file: impl AsFd) -> Result<Stat, Failed> {
        let mut stat = rustix::fs::fstat(&file).map_err(|error| doing("looking at it")(error.into()))?;
        let step =
            |what: &str, result: rustix::io::Result<()>| result.map_err(|error| doing(what)(error.into()));
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            step(
                "setting the owner",
                rustix::fs::fchown(&file, Some(uid), Some(gid)),
            )?;
        }
        if stat.st_mode & 0o7777 != self.mode {
            step(
                "setting the mode",
                rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode)),
            )?;
        }
        if !self.xattrs.is_empty() {
            for (name, value) in &self.xattrs {
                let what = format!("setting the attribute {:?}", crate::tar::shown(name));
                xattr::set(file.as_fd(), os(name), value).map_err(doing(&what))?;
            }
            // They may have taken a block of their own.
            stat = rustix::fs::fstat(&file).map_err(|error| doing("looking at it")(error.into()))?;
        }
        step("setting the times", rustix::fs::futimens(&file, &self.times()))?;
        Ok(stat)
    }

    /// Sets everything on the entry `name` of `dir`, whatever it is, without opening it. Returns its status.
    pub(super) fn set_at(&self, dir: &Dir, name: &[u8]) -> Result<Stat, Failed> {
        let name = os(name);
        let mut stat = dir.stat(name).map_err(doing("looking at it"))?;
        if (stat.st_uid, stat.st_gid) != (self.uid, self.gid) {
            dir.set_owner(name, self.uid, self.gid)
                .map_err(doing("setting the owner"))?;
        }
        // A symbolic link has no mode of its own.
        let has_mode = FileType::from_raw_mode(stat.st_mode) != FileType::Symlink;
        if has_mode && stat.st_mode & 0o7777 != self.mode {
            dir.set_mode(name, Mode::from_raw_mode(self.mode))
                .map_err(doing("setting the mode"))?;
        }
        if !self.xattrs.is_empty() {
            for (attribute, value) in &self.xattrs {
                let what = format!("setting the attribute {:?}", crate::tar::shown(attribute));
                dir.set_xattr(name, os(attribute), value).map_err(doing(&what))?;
            }
            stat = dir.stat(name).map_err(doing("looking at it"))?;
        }
        dir.set_times(name, &self.times())
            .map_err(doing("setting the times"))?;
        Ok(stat)
    }
}

/// Attributes of the entry `name` of `dir` as a layer stores them, without the overlay's private ones.
pub(super) fn stored_xattrs(dir: &Dir, name: &[u8], prefix: Prefix) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use std::os::unix::ffi::OsStrExt;
    let mut xattrs = Vec::new();
    for attribute in dir.list_xattrs(os(name))? {
        if prefix.is_private(&attribute) || HOST_ONLY.contains(&attribute.as_bytes()) {
            continue;
        }
        if let Some(value) = dir.get_xattr(os(name), &attribute)? {
            xattrs.push((attribute.as_bytes().to_vec(), value));
        }
    }
    Ok(xattrs)
}

/// Copies the data of `from` to the empty file `to`, holes staying holes; shares the blocks where the file system
/// can.
pub(super) fn copy_data(from: &File, to: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    to.set_len(from.metadata()?.len())?;
    let mut buffer = vec![0; 128 * 1024];
    let mut at = 0;
    while let Some((begin, end)) = crate::record::next_run(from, at)? {
        at = begin;
        while at < end {
            let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match from.read_at(&mut buffer[..want], at)? {
                0 => return Ok(()),
                len => {
                    to.write_all_at(&buffer[..len], at)?;
                    at += len as u64;
                }
            }
        }
    }
    Ok(())
}
