//! [`Root`]: the container's root file system as a descriptor, and the only way the launcher reaches names in it.
//!
//! Until `pivot_root` the launcher sees the host's tree, and what lies in the container's is anyone's: an image's
//! symbolic links, a volume that another container is changing at this moment. So a name is resolved by the kernel as
//! if the root were `/` (`RESOLVE_IN_ROOT`, no magic links), once, into a descriptor; what follows (making an entry,
//! mounting over it) is done on the descriptor and never on the name again.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// Links followed while making missing directories, as the kernel counts them.
const MAX_LINKS: usize = 40;

/// Attempts at a resolution that a rename elsewhere disturbed.
const MAX_RACES: usize = 128;

/// What a mount is to lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// Anything but a directory; an empty file where nothing is.
    File,
}

/// A directory of the container reached without leaving its root, and the name of an entry in it.
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    pub(super) name: OsString,
}

/// The root of a container.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Root {
    /// Takes the descriptor of the attached root mount.
    pub(super) fn new(fd: OwnedFd) -> Root {
        Root { fd }
    }

    fn resolve(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> io::Result<OwnedFd> {
        // The root itself has no name in itself.
        let path = if path.as_os_str().is_empty() {
            Path::new("/")
        } else {
            path
        };
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..MAX_RACES {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN) => continue,
                other => return Ok(other?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// A reference (`O_PATH`) to what `path` leads to, links followed within the root; `None` where nothing is.
    pub(super) fn find(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match self.resolve(path, OFlags::PATH, ResolveFlags::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// As [`Root::find`], but no link is followed anywhere: one on the way answers `ELOOP`.
    pub(super) fn find_plain(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match self.resolve(path, OFlags::PATH, ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens what `path` leads to, for reading or writing.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlags::empty())
    }

    /// What `path` leads to, made where it is missing (0755), its parents too.
    pub(super) fn find_or_make(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        match self.find(path)? {
            Some(found) => Ok(found),
            None => self.make(path, kind),
        }
    }

    /// The directory that `path`'s last component lies in (made where it is missing), and that component.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let dir = match self.find(parent)? {
            Some(dir) => dir,
            None => self.make(parent, Kind::Directory)?,
        };
        Ok(Place {
            dir,
            name: name.to_owned(),
        })
    }

    /// Makes every directory missing on `path` and the last component, and returns that. A link that points to nothing
    /// leads to where it points (the /etc/resolv.conf of many an image does), as long as that is within the root, which it
    /// always is.
    fn make(&self, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
        let mut links = 0;
        // Components still to walk, the next one last.
        let mut ahead: Vec<OsString> = reversed(path);
        let mut walked = PathBuf::from("/");
        let mut dir = self.resolve(&walked, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::empty())?;
        while let Some(name) = ahead.pop() {
            if name == ".." {
                walked.pop();
                dir = self.resolve(
                    &walked,
                    OFlags::PATH | OFlags::DIRECTORY,
                    ResolveFlags::NO_SYMLINKS,
                )?;
                continue;
            }
            let is_file = kind == Kind::File && ahead.is_empty();
            let made = match is_file {
                true => make_file(dir.as_fd(), &name),
                false => rustix::fs::mkdirat(&dir, name.as_os_str(), Mode::from_raw_mode(0o755)),
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                // What is there may be a directory all the same, of a file system that makes none.
                Err(Errno::ROFS | Errno::ACCESS | Errno::PERM | Errno::NOSYS) if !is_file => {}
                Err(error) => return Err(error.into()),
            }
            let flags = match is_file {
                true => OFlags::PATH,
                false => OFlags::PATH | OFlags::DIRECTORY,
            };
            match open_entry(dir.as_fd(), &name, flags) {
                Ok(next) => {
                    dir = next;
                    walked.push(&name);
                }
                Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(error);
                    }
                    let target = rustix::fs::readlinkat(&dir, name.as_os_str(), Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        walked = PathBuf::from("/");
                        dir =
                            self.resolve(&walked, OFlags::PATH | OFlags::DIRECTORY, ResolveFlags::empty())?;
                    }
                    ahead.extend(reversed(&target));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(dir)
    }
}

/// The directory at `path` in a container's root file system, made where it is missing (0755), its parents too. Links
/// are followed as the container would; nothing outside `root` is reached. For those who prepare a root before
/// anything runs in it.
///
/// # Errors
/// The errno of the call that failed; `ENOTDIR` where something else is.
pub fn make_directory(root: &sys::Dir, path: &Path) -> io::Result<OwnedFd> {
    let root = Root::new(root.as_fd().try_clone_to_owned()?);
    let found = root.find_or_make(path, Kind::Directory)?;
    match is_directory(found.as_fd())? {
        true => Ok(found),
        false => Err(Errno::NOTDIR.into()),
    }
}

fn make_file(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o755)).map(drop)
}

/// The entry `name` of `dir`, never through a link: one answers `ELOOP`.
fn open_entry(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    // O_NOFOLLOW with O_PATH would open the link itself.
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve)?)
}

fn reversed(path: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect();
    names.reverse();
    names
}

fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR))
}

/// Whether a descriptor is the root of a mount.
pub(super) fn is_mount(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let status = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::empty())?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether a descriptor is a directory's.
pub(super) fn is_directory(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

/// The magic number of the file system that a descriptor lies on (statfs(2)).
pub(super) fn file_system(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::fs::fstatfs(fd)?.f_type as u64)
}

/// Whether two descriptors are of one file.
pub(super) fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> io::Result<bool> {
    let (one, other) = (rustix::fs::fstat(one)?, rustix::fs::fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Whether a descriptor is the root of a procfs, and no directory in it (as /proc/1 is).
pub(super) fn is_all_of_proc(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// `PROC_ROOT_INO` of the kernel.
    const ROOT: u64 = 1;
    Ok(file_system(fd)? == PROC && rustix::fs::fstat(fd)?.st_ino == ROOT)
}

/// `PROC_SUPER_MAGIC` of linux/magic.h.
pub(super) const PROC: u64 = 0x9fa0;
/// `SYSFS_MAGIC`.
pub(super) const SYSFS: u64 = 0x6265_6572;
/// `DEVPTS_SUPER_MAGIC`.
pub(super) const DEVPTS: u64 = 0x1cd1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root(path: &Path) -> Root {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Root::new(rustix::fs::open(path, flags, Mode::empty()).unwrap())
    }

    /// `outside` must stay empty whatever is asked of `inside`.
    fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (temp.path().join("inside"), temp.path().join("outside"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&outside).unwrap();
        (temp, inside, outside)
    }

    #[test]
    fn links_out_lead_back_in() {
        let (_temp, inside, outside) = two();
        symlink(&outside, inside.join("absolute")).unwrap();
        symlink("../outside", inside.join("relative")).unwrap();
        symlink("/gone/deep", inside.join("dangling")).unwrap();
        let root = root(&inside);
        for name in [
            "/absolute/a/b",
            "/relative/a/b",
            "/dangling/a/b",
            "/../../x",
            "relative/../../../y",
        ] {
            root.find_or_make(Path::new(name), Kind::Directory).unwrap();
            root.find_or_make(&Path::new(name).join("file"), Kind::File)
                .unwrap();
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(inside.join("gone/deep/a/b/file").is_file());
        assert!(inside.join("outside/a/b/file").is_file());
        assert!(inside.join("x/file").is_file());
    }

    #[test]
    fn a_directory_is_made_where_a_link_leads() {
        let (_temp, inside, outside) = two();
        symlink("/data/real", inside.join("volume")).unwrap();
        fs::write(inside.join("file"), "").unwrap();
        let dir = sys::Dir::open_ambient(&inside).unwrap();
        make_directory(&dir, Path::new("/volume")).unwrap();
        assert!(inside.join("data/real").is_dir());
        make_directory(&dir, Path::new("/volume")).unwrap();
        let error = make_directory(&dir, Path::new("/file")).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTDIR));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn a_file_is_made_where_a_final_link_leads() {
        let (_temp, inside, outside) = two();
        fs::create_dir(inside.join("etc")).unwrap();
        symlink("../run/resolver/conf", inside.join("etc/resolv.conf")).unwrap();
        symlink(outside.join("file"), inside.join("absolute")).unwrap();
        symlink("../../../../outside/file", inside.join("etc/relative")).unwrap();
        symlink("self", inside.join("self")).unwrap();
        let root = root(&inside);
        let make = |path: &str| root.find_or_make(Path::new(path), Kind::File);
        for (path, is) in [
            ("/etc/resolv.conf", inside.join("run/resolver/conf")),
            (
                "/absolute",
                inside.join(outside.join("file").strip_prefix("/").unwrap()),
            ),
            ("/etc/relative", inside.join("outside/file")),
        ] {
            let made = rustix::fs::fstat(make(path).unwrap()).unwrap();
            assert_eq!(made.st_ino, rustix::fs::lstat(&is).unwrap().st_ino, "{path}");
            assert!(is.is_file());
        }
        let error = make("/self").unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP));
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }

    #[test]
    fn plain_means_no_link() {
        let (_temp, inside, _) = two();
        fs::create_dir(inside.join("real")).unwrap();
        symlink("real", inside.join("link")).unwrap();
        let root = root(&inside);
        assert!(root.find_plain(Path::new("/real")).unwrap().is_some());
        assert!(root.find_plain(Path::new("/none")).unwrap().is_none());
        let error = root.find_plain(Path::new("/link")).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::LOOP));
        assert!(root.find(Path::new("/link")).unwrap().is_some());
    }

    #[test]
    fn loops_end() {
        let (_temp, inside, _) = two();
        symlink("b/x", inside.join("a")).unwrap();
        symlink("a/x", inside.join("b")).unwrap();
        assert!(
            root(&inside)
                .find_or_make(Path::new("/a"), Kind::Directory)
                .is_err()
        );
    }
}
