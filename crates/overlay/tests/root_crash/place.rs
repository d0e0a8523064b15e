//! The layers that operations are done on, fresh for each.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use mount::{Mount, MountError};
use overlay::live::{Layers, OpenError, Options, Overlay};
use overlay::{Format, whiteout};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use sys::Dir;

use crate::view::{self, View};

/// `u::rwx,g::r-x,o::r-x`, and `rwx` for user 7, as the kernel stores it.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 7, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16,
    0, 7, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
];

/// Directories of an overlay.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    format: Format,
    metacopy: bool,
}

impl Place {
    pub(crate) fn new(base: &Path, format: Format, metacopy: bool) -> Place {
        let dir = tempfile::tempdir_in(base).expect("room to put layers in");
        let place = Place {
            dir,
            format,
            metacopy,
        };
        for name in ["low", "up", "work", "mnt"] {
            fs::create_dir(place.at(name)).unwrap();
        }
        place.fill();
        place
    }

    /// One that exists: of the process that made it.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn fill(&self) {
        let low = |name: &str| self.at("low").join(name);
        let up = |name: &str| self.at("up").join(name);
        for dir in [
            "d", "d/e", "dir", "dir/sub", "dir/all", "empty", "emptied", "sg", "gonedir", "covered", "plain",
        ] {
            fs::create_dir(low(dir)).unwrap();
        }
        for file in [
            "f",
            "g",
            "d/e/deep",
            "d/f",
            "over",
            "gone",
            "dir/x",
            "dir/sub/y",
            "dir/all/a",
            "emptied/a",
        ] {
            fs::write(low(file), file.repeat(3000)).unwrap();
        }
        for file in [
            "emptied/b",
            "sg/w",
            "sg/wd",
            "gonedir/z",
            "h1",
            "covered/c",
            "plain/p",
        ] {
            fs::write(low(file), file).unwrap();
        }
        fs::hard_link(low("h1"), low("h2")).unwrap();
        fs::hard_link(low("h1"), low("d/h3")).unwrap();
        symlink("target", low("link")).unwrap();
        for (name, kind, device) in [
            ("fifo", FileType::Fifo, 0),
            ("null", FileType::CharacterDevice, 0x103),
        ] {
            rustix::fs::mknodat(CWD, low(name), kind, Mode::from_raw_mode(0o620), device).unwrap();
        }
        // In the upper layer.
        for dir in [
            "dir", "dir/all", "emptied", "sg", "own", "own/in", "target", "covered",
        ] {
            fs::create_dir(up(dir)).unwrap();
        }
        for file in ["over", "dir/new", "own/file", "own/in/deep", "mine"] {
            fs::write(up(file), file.repeat(7)).unwrap();
        }
        for gone in [
            "gone",
            "gonedir",
            "emptied/a",
            "emptied/b",
            "sg/w",
            "sg/wd",
            "dir/all/a",
            "covered/c",
        ] {
            let (parent, name) = gone.rsplit_once('/').unwrap_or((".", gone));
            let parent = Dir::open_ambient(up(parent)).unwrap();
            whiteout::make(&parent, name.as_ref(), self.format).unwrap();
        }
        for layer in ["low", "up"] {
            self.dress(&self.at(layer), true);
        }
        for dir in ["low", "up"].map(|layer| self.at(layer).join("sg")) {
            rustix::fs::setxattr(&dir, "system.posix_acl_default", &ACL, XattrFlags::empty()).unwrap();
            rustix::fs::chown(&dir, None, Some(Gid::from_raw(500))).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(0o2775)).unwrap();
        }
    }

    /// Owners, attributes and times that nobody would have by chance.
    fn dress(&self, at: &Path, root: bool) {
        let stat = rustix::fs::lstat(at).unwrap();
        let kind = FileType::from_raw_mode(stat.st_mode);
        let whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0
            || rustix::fs::lgetxattr(at, "user.overlay.whiteout", &mut [0u8; 4]).is_ok();
        if kind == FileType::Directory {
            for entry in fs::read_dir(at).unwrap() {
                self.dress(&entry.unwrap().path(), false);
            }
        }
        if root || whiteout {
            return;
        }
        let name = at.file_name().unwrap().as_bytes();
        let number = name.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        rustix::fs::chownat(
            CWD,
            at,
            Some(Uid::from_raw(number)),
            Some(Gid::from_raw(number + 1)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        rustix::fs::lsetxattr(at, "trusted.test", name, XattrFlags::empty()).unwrap();
        if kind != FileType::Symlink {
            let mode = if kind == FileType::Directory {
                0o711
            } else {
                0o4640
            };
            fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
        }
        let time = Timespec {
            tv_sec: 1_000_000_000 + i64::from(number),
            tv_nsec: 123_456_789,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, at, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    fn options(format: Format, metacopy: bool) -> Options {
        Options {
            prefix: format.prefix,
            whiteouts: format.whiteouts,
            // Under the user prefix the kernel would not follow what it leads to.
            index: format == Format::TRUSTED,
            metacopy,
            ..Options::default()
        }
    }

    /// Our server's overlay of them.
    pub(crate) fn open(&self) -> Overlay {
        open(self.path(), self.format, self.metacopy)
    }

    /// What a mount of the kernel shows.
    pub(crate) fn kernel(&self) -> View {
        let mut options = match self.format == Format::TRUSTED {
            true => vec!["redirect_dir=on", "index=on"],
            false => vec!["userxattr"],
        };
        if self.metacopy {
            options.push("metacopy=on");
        }
        let (low, mnt) = (self.at("low"), self.at("mnt"));
        let overlay = Mount::overlay(&[&low], Some((&self.at("up"), &self.at("work"))), &options);
        patiently(|| match mount::attach(&overlay, &mnt) {
            Err(MountError::InUse(_)) => None,
            other => {
                other.expect("mounting an overlay needs root");
                Some(())
            }
        });
        let view = std::panic::catch_unwind(|| view::plain(&mnt));
        mount::detach(&mnt).unwrap();
        view.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The lower layer itself.
    pub(crate) fn lower(&self) -> View {
        view::plain(&self.at("low"))
    }

    /// What lies in `work/`, and in the index.
    pub(crate) fn work(&self) -> Vec<PathBuf> {
        let mut left: Vec<PathBuf> = view::plain(&self.at("work")).into_keys().collect();
        left.retain(|path| path.as_os_str() != "work" && path.as_os_str() != "index");
        left
    }
}

/// An overlay of the directories in a place.
pub(crate) fn open(place: &Path, format: Format, metacopy: bool) -> Overlay {
    let dir = |name: &str| Dir::open_ambient(place.join(name)).unwrap();
    patiently(|| {
        let layers = Layers {
            lower: vec![dir("low")],
            upper: Some(dir("up")),
            work: Some(dir("work")),
        };
        match Overlay::new(layers, Place::options(format, metacopy)) {
            Err(OpenError::InUse(_)) => None,
            other => Some(other.unwrap()),
        }
    })
}

/// A program that another test of this process starts holds the lock between its fork and its exec.
fn patiently<R>(mut attempt: impl FnMut() -> Option<R>) -> R {
    for _ in 0..1000 {
        match attempt() {
            None => std::thread::sleep(std::time::Duration::from_millis(1)),
            Some(done) => return done,
        }
    }
    panic!("the directories stay locked")
}
