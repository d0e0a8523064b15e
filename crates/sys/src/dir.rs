//! [`Dir`]: a directory descriptor, and the only way strata reaches names it did not choose itself.
//!
//! Two kinds of call:
//! - those that take a **name** act on one entry of this directory and refuse anything that is not a single
//!   component (empty, `.`, `..`, or with a `/`). They never follow a symbolic link.
//! - those that take a **path** ending in `rel` resolve several components with `openat2(2)`:
//!   [`Dir::open_file`] and [`Dir::open_dir`] follow no link at all and cannot leave the directory;
//!   [`Dir::open_in_root`] follows links as if the directory were `/`, which is how a container sees itself.
//!
//! A `Dir` comes from another `Dir`, or from [`Dir::open_ambient`], which is the one place where a path that is
//! trusted as a whole (a command line's, a configuration's) enters.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, IFlags, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Stat,
    Timestamps, Uid,
};

use crate::inode_flags;

/// An open directory; everything reached through it stays beneath it.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

/// One entry of a directory, as `getdents64(2)` tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, in the file system's own bytes.
    pub name: OsString,
    /// Kind of the entry; `FileType::Unknown` where the file system does not say.
    pub file_type: FileTypeOrd,
    /// Inode number as the directory records it.
    pub ino: u64,
}

/// A `FileType` that can be compared and sorted, for entries kept in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileTypeOrd(pub FileType);

impl PartialOrd for FileTypeOrd {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FileTypeOrd {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.as_raw_mode().cmp(&other.0.as_raw_mode())
    }
}

/// No link anywhere on the way, no way out, no `/proc` magic.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_SYMLINKS);

/// As `chroot` would see it.
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Accepts exactly one path component that names an entry.
fn single(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(invalid(format!("{name:?} is not a single file name")));
    }
    Ok(name)
}

impl Dir {
    /// Opens a directory by a path that is trusted as a whole: one from the command line, the environment or a
    /// configuration file. Links on it are followed.
    pub fn open_ambient(path: impl AsRef<Path>) -> io::Result<Dir> {
        let fd = fs::open(path.as_ref(), DIR_FLAGS, Mode::empty())?;
        Ok(Dir { fd })
    }

    /// Makes a `Dir` of a descriptor that is known to be a directory's.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Dir> {
        match FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) {
            FileType::Directory => Ok(Dir { fd }),
            _ => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        }
    }

    /// A second descriptor of the same open directory. It shares the read position, which only matters to
    /// callers of `getdents` on the raw descriptor; [`Dir::entries`] is not affected.
    pub fn try_clone(&self) -> io::Result<Dir> {
        Ok(Dir {
            fd: self.fd.try_clone()?,
        })
    }

    /// Opens the directory `rel` beneath this one. `rel` may have several components, none a link, and may be
    /// longer than the kernel takes at once.
    pub fn open_dir(&self, rel: impl AsRef<Path>) -> io::Result<Dir> {
        /// `PATH_MAX` counts the NUL at the end.
        const MAX: usize = 4095;
        let mut rel = rel.as_ref().as_os_str().as_bytes();
        let mut on_the_way: Option<Dir> = None;
        while rel.len() > MAX {
            let slash = rel[..MAX].iter().rposition(|byte| *byte == b'/');
            let slash = slash.filter(|at| *at > 0).ok_or(rustix::io::Errno::NAMETOOLONG)?;
            let at = on_the_way.as_ref().unwrap_or(self);
            let fd = at.openat2(
                Path::new(OsStr::from_bytes(&rel[..slash])),
                DIR_FLAGS,
                Mode::empty(),
                BENEATH,
            )?;
            on_the_way = Some(Dir { fd });
            rel = &rel[slash..];
            while let [b'/', rest @ ..] = rel {
                rel = rest;
            }
        }
        let at = on_the_way.as_ref().unwrap_or(self);
        let fd = at.openat2(
            Path::new(OsStr::from_bytes(rel)),
            DIR_FLAGS,
            Mode::empty(),
            BENEATH,
        )?;
        Ok(Dir { fd })
    }

    /// The directory that this one lies in, if that is still the one of this device and inode: of a tree that somebody moves
    /// it could be any.
    pub fn parent(&self, (dev, ino): (u64, u64)) -> io::Result<Option<Dir>> {
        let fd = fs::openat(&self.fd, "..", DIR_FLAGS, Mode::empty())?;
        let stat = fs::fstat(&fd)?;
        Ok(((stat.st_dev, stat.st_ino) == (dev, ino)).then_some(Dir { fd }))
    }

    /// Opens `rel` beneath this directory, following no link, with `O_CLOEXEC`.
    pub fn open_file(&self, rel: impl AsRef<Path>, flags: OFlags, mode: Mode) -> io::Result<File> {
        Ok(File::from(self.openat2(
            rel.as_ref(),
            flags | OFlags::CLOEXEC,
            mode,
            BENEATH,
        )?))
    }

    /// Opens `rel` as a process whose root is this directory would: links are followed, absolute ones start
    /// here, and `..` stops here.
    pub fn open_in_root(&self, rel: impl AsRef<Path>, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        self.openat2(rel.as_ref(), flags | OFlags::CLOEXEC, mode, IN_ROOT)
    }

    fn openat2(&self, rel: &Path, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        let rel = if rel.as_os_str().is_empty() {
            Path::new(".")
        } else {
            rel
        };
        // openat2 answers EAGAIN when a rename or mount elsewhere raced with the resolution of a `..`.
        for _ in 0..128 {
            match fs::openat2(&self.fd, rel, flags, mode, resolve) {
                Err(rustix::io::Errno::AGAIN) => continue,
                other => return Ok(other?),
            }
        }
        Err(rustix::io::Errno::AGAIN.into())
    }

    /// Makes the directory `name` with exactly `mode`, whatever the umask.
    pub fn mkdir(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<()> {
        let name = single(name.as_ref())?;
        fs::mkdirat(&self.fd, name, mode)?;
        // The umask may have taken bits away, and mkdir(2) takes neither set-id bit.
        Ok(fs::chmodat(&self.fd, name, mode, AtFlags::empty())?)
    }

    /// Makes the directory `name` with `mode` less the bits of the umask: one call, for those who look at the
    /// result anyway or have cleared the umask ([`crate::umask::clear_for_thread`]).
    pub fn mkdir_masked(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<()> {
        Ok(fs::mkdirat(&self.fd, single(name.as_ref())?, mode)?)
    }

    /// Makes the regular file `name`, which must not exist, and opens it for writing. `mode` is subject to the
    /// umask.
    pub fn create_new(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(
            &self.fd,
            single(name.as_ref())?,
            flags,
            mode,
        )?))
    }

    /// Makes every missing directory of `rel` with `mode`, and opens the last. No link is followed.
    pub fn mkdir_all(&self, rel: impl AsRef<Path>, mode: Mode) -> io::Result<Dir> {
        let mut dir = self.try_clone()?;
        for component in rel.as_ref().components() {
            let name = match component {
                Component::Normal(name) => name,
                Component::CurDir => continue,
                _ => return Err(invalid(format!("{:?} leaves the directory", rel.as_ref()))),
            };
            match dir.mkdir(name, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
            dir = dir.open_dir(name)?;
        }
        Ok(dir)
    }

    /// Makes the symbolic link `name`; `target` is stored as it is.
    pub fn symlink(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(fs::symlinkat(target.as_ref(), &self.fd, single(name.as_ref())?)?)
    }

    /// Gives the file `from` of the directory `from_dir` the further name `name` here. A symbolic link is
    /// linked itself, not what it points to.
    pub fn link(&self, from_dir: &Dir, from: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> io::Result<()> {
        let (from, name) = (single(from.as_ref())?, single(name.as_ref())?);
        Ok(fs::linkat(&from_dir.fd, from, &self.fd, name, AtFlags::empty())?)
    }

    /// Makes the special file `name`. `dev` matters for character and block devices only.
    pub fn mknod(
        &self,
        name: impl AsRef<OsStr>,
        file_type: FileType,
        mode: Mode,
        dev: fs::Dev,
    ) -> io::Result<()> {
        Ok(fs::mknodat(
            &self.fd,
            single(name.as_ref())?,
            file_type,
            mode,
            dev,
        )?)
    }

    /// Removes the entry `name`, which is not a directory.
    pub fn unlink(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(fs::unlinkat(&self.fd, single(name.as_ref())?, AtFlags::empty())?)
    }

    /// Removes the empty directory `name`.
    pub fn rmdir(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(fs::unlinkat(
            &self.fd,
            single(name.as_ref())?,
            AtFlags::REMOVEDIR,
        )?)
    }

    /// Removes `name` and everything beneath it; what is already gone is no error. Never follows a link and
    /// never crosses into another mount: a mount point in the tree answers `EBUSY` or `EXDEV`. Works on trees
    /// of any depth with a bounded number of descriptors. What chattr(1) protects goes too.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        let name = single(name.as_ref())?;
        if self.unlink_any(name)? {
            return Ok(());
        }
        let tree = match self.open_for_removal(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        tree.remove_contents(0)?;
        match self.unlink_freed(name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn open_for_removal(&self, name: &OsStr) -> io::Result<Dir> {
        let resolve = BENEATH.union(ResolveFlags::NO_XDEV);
        let fd = self.openat2(
            Path::new(name),
            DIR_FLAGS | OFlags::NOFOLLOW,
            Mode::empty(),
            resolve,
        )?;
        Ok(Dir { fd })
    }

    /// Directories deeper than this are first moved up, so that neither the stack nor the descriptor table is
    /// bounded by what an archive contains.
    const REMOVAL_DEPTH: usize = 64;

    fn remove_contents(&self, depth: usize) -> io::Result<()> {
        // A name may appear while we read; until the directory is empty there is something left to do.
        loop {
            let mut found = false;
            for entry in self.entries()? {
                found = true;
                let name = entry.name.as_os_str();
                if entry.file_type.0 != FileType::Directory && self.unlink_any(name)? {
                    continue;
                }
                let child = match self.open_for_removal(name) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other?,
                };
                if depth < Self::REMOVAL_DEPTH {
                    child.remove_contents(depth + 1)?;
                } else {
                    child.hoist_into(self)?;
                }
                drop(child);
                match self.unlink_freed(name, AtFlags::REMOVEDIR) {
                    Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTEMPTY) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if !found {
                return Ok(());
            }
        }
    }

    /// Moves every directory of `self` into `parent` under a fresh name and unlinks the rest.
    fn hoist_into(&self, parent: &Dir) -> io::Result<()> {
        for (index, entry) in self.entries()?.into_iter().enumerate() {
            let name = entry.name.as_os_str();
            if self.unlink_any(name)? {
                continue;
            }
            // Whoever made the tree may have made such names, too.
            for fresh in 0_u64.. {
                let fresh = format!(".removing-{}-{index}-{fresh}", entry.ino);
                let moved =
                    || fs::renameat_with(&self.fd, name, &parent.fd, fresh.as_str(), RenameFlags::NOREPLACE);
                match moved() {
                    Err(rustix::io::Errno::EXIST) => continue,
                    Err(rustix::io::Errno::PERM) if self.unprotect(name) => moved()?,
                    other => other?,
                }
                break;
            }
        }
        Ok(())
    }

    /// Unlinks what is no directory, or is gone; false for a directory.
    fn unlink_any(&self, name: &OsStr) -> io::Result<bool> {
        match self.unlink_freed(name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(rustix::io::Errno::ISDIR) => Ok(false),
            // POSIX allows it for a directory.
            Err(rustix::io::Errno::PERM) if self.open_for_removal(name).is_ok() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// unlinkat(2), once more where chattr(1) stood in the way.
    fn unlink_freed(&self, name: &OsStr, flags: AtFlags) -> rustix::io::Result<()> {
        match fs::unlinkat(&self.fd, name, flags) {
            Err(rustix::io::Errno::PERM) if self.unprotect(name) => fs::unlinkat(&self.fd, name, flags),
            other => other,
        }
    }

    /// Takes from this directory and its entry `name` the flags of inodes that forbid to unlink; whether there were any.
    fn unprotect(&self, name: &OsStr) -> bool {
        let free = |fd: &OwnedFd| {
            let protecting = IFlags::IMMUTABLE | IFlags::APPEND;
            inode_flags::get(fd).is_ok_and(|flags| {
                flags.intersects(protecting) && inode_flags::set(fd, flags - protecting).is_ok()
            })
        };
        let opened = || -> io::Result<OwnedFd> {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = self.openat2(Path::new(name), flags, Mode::empty(), BENEATH)?;
            // A device's driver would hear of being opened.
            match FileType::from_raw_mode(fs::fstat(&entry)?.st_mode) {
                FileType::RegularFile | FileType::Directory => {}
                _ => return Err(rustix::io::Errno::INVAL.into()),
            }
            let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
            Ok(fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
        };
        let entry = opened().is_ok_and(|entry| free(&entry));
        free(&self.fd) || entry
    }

    /// Moves `name` to `to` in the directory `to_dir`, replacing what is there as `rename(2)` does.
    pub fn rename(&self, name: impl AsRef<OsStr>, to_dir: &Dir, to: impl AsRef<OsStr>) -> io::Result<()> {
        Ok(fs::renameat(
            &self.fd,
            single(name.as_ref())?,
            &to_dir.fd,
            single(to.as_ref())?,
        )?)
    }

    /// As [`Dir::rename`], but answers `EEXIST` when `to` exists.
    pub fn rename_noreplace(
        &self,
        name: impl AsRef<OsStr>,
        to_dir: &Dir,
        to: impl AsRef<OsStr>,
    ) -> io::Result<()> {
        self.rename_with(name.as_ref(), to_dir, to.as_ref(), RenameFlags::NOREPLACE)
    }

    /// Swaps two entries in one step.
    pub fn exchange(&self, name: impl AsRef<OsStr>, to_dir: &Dir, to: impl AsRef<OsStr>) -> io::Result<()> {
        self.rename_with(name.as_ref(), to_dir, to.as_ref(), RenameFlags::EXCHANGE)
    }

    fn rename_with(&self, name: &OsStr, to_dir: &Dir, to: &OsStr, flags: RenameFlags) -> io::Result<()> {
        Ok(fs::renameat_with(
            &self.fd,
            single(name)?,
            &to_dir.fd,
            single(to)?,
            flags,
        )?)
    }

    /// Status of the entry `name`; a link's own.
    pub fn stat(&self, name: impl AsRef<OsStr>) -> io::Result<Stat> {
        Ok(fs::statat(
            &self.fd,
            single(name.as_ref())?,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// As [`Dir::stat`], with `None` for a name that does not exist.
    pub fn try_stat(&self, name: impl AsRef<OsStr>) -> io::Result<Option<Stat>> {
        match fs::statat(&self.fd, single(name.as_ref())?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Status of the directory itself.
    pub fn metadata(&self) -> io::Result<Stat> {
        Ok(fs::fstat(&self.fd)?)
    }

    /// Where the symbolic link `name` points.
    pub fn read_link(&self, name: impl AsRef<OsStr>) -> io::Result<OsString> {
        let target = fs::readlinkat(&self.fd, single(name.as_ref())?, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// All entries but `.` and `..`, in the order the file system gives them.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        // A descriptor of its own: the position of `self` is nobody's to move.
        let fd = fs::openat(&self.fd, ".", DIR_FLAGS, Mode::empty())?;
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        let mut reader = RawDir::new(fd, &mut buffer);
        let mut entries = Vec::new();
        while let Some(entry) = reader.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                entries.push(Entry {
                    name: OsString::from_vec(name.to_vec()),
                    file_type: FileTypeOrd(entry.file_type()),
                    ino: entry.ino(),
                });
            }
        }
        Ok(entries)
    }

    /// Changes the owner of `name` (a link's own). This clears set-id bits and `security.capability`: set the
    /// mode and that attribute afterwards.
    pub fn set_owner(&self, name: impl AsRef<OsStr>, uid: u32, gid: u32) -> io::Result<()> {
        let name = single(name.as_ref())?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(fs::chownat(
            &self.fd,
            name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Changes the permission bits of `name`. A symbolic link has none of its own, and is refused with
    /// `ELOOP` rather than followed.
    pub fn set_mode(&self, name: impl AsRef<OsStr>, mode: Mode) -> io::Result<()> {
        let name = single(name.as_ref())?;
        // fchmodat(2) has no flags; an O_PATH descriptor reached through /proc pins the very inode instead.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pinned = fs::openat(&self.fd, name, flags, Mode::empty())?;
        if FileType::from_raw_mode(fs::fstat(&pinned)?.st_mode) == FileType::Symlink {
            return Err(rustix::io::Errno::LOOP.into());
        }
        Ok(fs::chmodat(
            CWD,
            crate::xattr::proc_path(pinned.as_fd(), None).as_str(),
            mode,
            AtFlags::empty(),
        )?)
    }

    /// Sets access and modification time of `name` (a link's own).
    pub fn set_times(&self, name: impl AsRef<OsStr>, times: &Timestamps) -> io::Result<()> {
        Ok(fs::utimensat(
            &self.fd,
            single(name.as_ref())?,
            times,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }

    /// Names of the extended attributes of `name` (a link's own).
    pub fn list_xattrs(&self, name: impl AsRef<OsStr>) -> io::Result<Vec<OsString>> {
        crate::xattr::list_at(self.as_fd(), single(name.as_ref())?)
    }

    /// Value of the attribute `attr` of `name` (a link's own); `None` where it has none or the file system
    /// knows no attributes.
    pub fn get_xattr(&self, name: impl AsRef<OsStr>, attr: impl AsRef<OsStr>) -> io::Result<Option<Vec<u8>>> {
        crate::xattr::get_at(self.as_fd(), single(name.as_ref())?, attr.as_ref())
    }

    /// Sets an attribute of `name` (a link's own), made or replaced.
    pub fn set_xattr(
        &self,
        name: impl AsRef<OsStr>,
        attr: impl AsRef<OsStr>,
        value: &[u8],
    ) -> io::Result<()> {
        crate::xattr::set_at(self.as_fd(), single(name.as_ref())?, attr.as_ref(), value)
    }

    /// Removes an attribute of `name` (a link's own); one that is not there is no error.
    pub fn remove_xattr(&self, name: impl AsRef<OsStr>, attr: impl AsRef<OsStr>) -> io::Result<()> {
        crate::xattr::remove_at(self.as_fd(), single(name.as_ref())?, attr.as_ref())
    }

    /// Makes the directory's own entries durable (`fsync`), not what they name.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.fd)?)
    }

    /// Makes everything on the file system of this directory durable (`syncfs`).
    pub fn syncfs(&self) -> io::Result<()> {
        Ok(fs::syncfs(&self.fd)?)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.fd
    }
}

#[cfg(test)]
mod tests;
