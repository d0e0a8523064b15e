//! One random operation, on the live overlay and on a plain directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use overlay::live::{Caller, NodeId, Overlay, ROOT, SetAttr};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use crate::layers::{NAMES, Random};

/// Both sides, by paths.
pub(crate) struct Pair<'a> {
    pub(crate) overlay: &'a Overlay,
    pub(crate) plain: &'a Path,
}

pub(crate) enum Skip {
    /// A symbolic link on the way: the front end would follow it.
    Link,
    Errno(Errno),
}

impl From<Errno> for Skip {
    fn from(errno: Errno) -> Skip {
        Skip::Errno(errno)
    }
}

impl Pair<'_> {
    fn node(&self, path: &Path) -> Result<NodeId, Skip> {
        let mut at = ROOT;
        for name in path.iter() {
            let stat = self.overlay.getattr(at, None)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {}
                FileType::Symlink => return Err(Skip::Link),
                _ => return Err(Errno::NOTDIR.into()),
            }
            at = self.overlay.lookup(at, name)?.node;
        }
        Ok(at)
    }

    fn parent<'p>(&self, path: &'p Path) -> Result<(NodeId, &'p OsStr), Skip> {
        let parent = self.node(path.parent().unwrap())?;
        let stat = self.overlay.getattr(parent, None)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Ok((parent, path.file_name().unwrap())),
            FileType::Symlink => Err(Skip::Link),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn is_link(&self, node: NodeId) -> bool {
        let stat = self.overlay.getattr(node, None).unwrap();
        FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
    }

    fn regular(&self, node: NodeId) -> Result<NodeId, Skip> {
        let stat = self.overlay.getattr(node, None)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(node),
            FileType::Directory => Err(Errno::ISDIR.into()),
            _ => Err(Skip::Link),
        }
    }
}

/// A path of something that is there, or in a directory that is, or nowhere.
pub(crate) fn path(random: &mut Random, plain: &Path) -> PathBuf {
    let mut path = PathBuf::new();
    loop {
        let mut names: Vec<_> = match fs::read_dir(plain.join(&path)) {
            Ok(entries) => entries.map(|entry| entry.unwrap().file_name()).collect(),
            Err(_) => return path,
        };
        names.sort();
        let stop = random.below(3) == 0 || names.is_empty();
        if stop || random.below(4) == 0 {
            let name = random.pick(&NAMES);
            path.push(if random.below(12) == 0 {
                format!("{name}x")
            } else {
                name.to_owned()
            });
        } else {
            path.push(&names[random.below(names.len() as u64) as usize]);
        }
        if stop || random.below(5) == 0 {
            return path;
        }
    }
}

/// Does one random thing to both sides; what it was.
pub(crate) fn step(random: &mut Random, pair: &Pair<'_>, number: u64) -> String {
    let at = path(random, pair.plain);
    let plain = pair.plain.join(&at);
    let overlay = pair.overlay;
    let caller = Caller::default();
    let (what, ours, theirs): (String, Result<(), Skip>, Result<(), Errno>) = match random.below(16) {
        0 | 1 => {
            let ours = pair.parent(&at).and_then(|(dir, name)| {
                let (_, open) = overlay.create(dir, name, OFlags::WRONLY, 0o640, caller)?;
                open.file(overlay)?.write_all_at(b"new", 0).unwrap();
                Ok(())
            });
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW;
            let theirs = rustix::fs::open(&plain, flags, Mode::from_raw_mode(0o640))
                .map(|file| assert_eq!(rustix::io::write(file, b"new"), Ok(3)));
            (format!("create {at:?}"), ours, theirs)
        }
        2 | 3 => {
            let text = format!("{number}");
            let ours = pair
                .node(&at)
                .and_then(|node| pair.regular(node))
                .and_then(|node| {
                    let open = overlay.open(node, OFlags::RDWR, false)?;
                    open.file(overlay)?.write_all_at(text.as_bytes(), 3).unwrap();
                    Ok(())
                });
            let theirs = rustix::fs::open(
                &plain,
                OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK,
                Mode::empty(),
            )
            .map(|file| {
                // A fifo opens too, and is no file to ours.
                let _ = rustix::io::pwrite(file, text.as_bytes(), 3);
            });
            (format!("write {at:?}"), ours, theirs)
        }
        4 => {
            let size = random.below(60);
            let ours = pair
                .node(&at)
                .and_then(|node| pair.regular(node))
                .and_then(|node| {
                    let set = SetAttr {
                        size: Some(size),
                        ..SetAttr::default()
                    };
                    overlay.setattr(node, &set, None)?;
                    Ok(())
                });
            let theirs = rustix::fs::open(
                &plain,
                OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK,
                Mode::empty(),
            )
            .and_then(|file| rustix::fs::ftruncate(file, size));
            (format!("truncate {at:?} {size}"), ours, theirs)
        }
        5 | 6 => {
            let ours = pair
                .parent(&at)
                .and_then(|(dir, name)| Ok(overlay.mkdir(dir, name, 0o750, caller).map(drop)?));
            let theirs = rustix::fs::mkdir(&plain, Mode::from_raw_mode(0o750));
            (format!("mkdir {at:?}"), ours, theirs)
        }
        7 => {
            let ours = pair
                .parent(&at)
                .and_then(|(dir, name)| Ok(overlay.rmdir(dir, name)?));
            (format!("rmdir {at:?}"), ours, rustix::fs::rmdir(&plain))
        }
        8 | 9 => {
            let ours = pair
                .parent(&at)
                .and_then(|(dir, name)| Ok(overlay.unlink(dir, name)?));
            (format!("unlink {at:?}"), ours, rustix::fs::unlink(&plain))
        }
        10 | 11 => {
            let to = path(random, pair.plain);
            let flags = random.pick(&[
                RenameFlags::empty(),
                RenameFlags::empty(),
                RenameFlags::NOREPLACE,
                RenameFlags::EXCHANGE,
            ]);
            let ours = pair.parent(&at).and_then(|(dir, name)| {
                let (new_dir, new_name) = pair.parent(&to)?;
                Ok(overlay.rename(dir, name, new_dir, new_name, flags)?)
            });
            let theirs = rustix::fs::renameat_with(CWD, &plain, CWD, pair.plain.join(&to), flags);
            (format!("rename {at:?} {to:?} {flags:?}"), ours, theirs)
        }
        12 => {
            let to = path(random, pair.plain);
            let ours = pair.node(&at).and_then(|node| {
                let (dir, name) = pair.parent(&to)?;
                let exists = overlay.lookup(dir, name).is_ok();
                if exists {
                    return Err(Errno::EXIST.into());
                }
                Ok(overlay.link(node, dir, name).map(drop)?)
            });
            let theirs = rustix::fs::linkat(CWD, &plain, CWD, pair.plain.join(&to), AtFlags::empty());
            (format!("link {at:?} {to:?}"), ours, theirs)
        }
        13 => {
            let mode = 0o600 + random.below(0o200) as u32;
            let ours = pair.node(&at).and_then(|node| {
                if pair.is_link(node) {
                    return Err(Skip::Link);
                }
                let set = SetAttr {
                    mode: Some(mode),
                    uid: Some(7),
                    ..SetAttr::default()
                };
                overlay.setattr(node, &set, None)?;
                Ok(())
            });
            let theirs = rustix::fs::statat(CWD, &plain, AtFlags::SYMLINK_NOFOLLOW).and_then(|stat| {
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    return Ok(());
                }
                rustix::fs::chown(&plain, Some(rustix::fs::Uid::from_raw(7)), None)?;
                rustix::fs::chmod(&plain, Mode::from_raw_mode(mode))
            });
            (format!("chmod {at:?} {mode:o}"), ours, theirs)
        }
        14 => {
            let value = [random.below(256) as u8];
            let remove = random.below(3) == 0;
            let name = OsStr::new("trusted.test");
            let ours = pair.node(&at).and_then(|node| {
                match remove {
                    true => overlay.removexattr(node, name)?,
                    false => overlay.setxattr(node, name, &value, XattrFlags::empty(), false)?,
                }
                Ok(())
            });
            let theirs = match remove {
                true => rustix::fs::lremovexattr(&plain, name),
                false => rustix::fs::lsetxattr(&plain, name, &value, XattrFlags::empty()),
            };
            (format!("xattr {at:?} {value:?} remove {remove}"), ours, theirs)
        }
        _ => match random.below(2) {
            0 => {
                let ours = pair.parent(&at).and_then(|(dir, name)| {
                    Ok(overlay.symlink(dir, name, OsStr::new("to"), caller).map(drop)?)
                });
                (format!("symlink {at:?}"), ours, rustix::fs::symlink("to", &plain))
            }
            _ => {
                let mode = 0o010644;
                let ours = pair
                    .parent(&at)
                    .and_then(|(dir, name)| Ok(overlay.mknod(dir, name, mode, 0, caller).map(drop)?));
                let theirs = rustix::fs::mknodat(CWD, &plain, FileType::Fifo, Mode::from_raw_mode(0o644), 0);
                (format!("mkfifo {at:?}"), ours, theirs)
            }
        },
    };
    let ours = match ours {
        Ok(()) => Ok(()),
        Err(Skip::Errno(errno)) => Err(errno),
        // The other side may have done it, through the link; nothing beneath a link exists.
        Err(Skip::Link) => {
            return format!("{what}: link");
        }
    };
    assert_eq!(ours, theirs, "{what}");
    format!("{what}: {ours:?}")
}
