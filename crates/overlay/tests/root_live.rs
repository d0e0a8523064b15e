//! [`overlay::live`] against a plain directory: the same operations on both must give the same errors, and leave the
//! same tree; and the layers that it leaves, mounted by the kernel, must show that tree too. Needs root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use mount::Mount;
use overlay::live::{Caller, Layers, NodeId, OpenError, Options, Overlay, ROOT, SetAttr};
use overlay::{Format, Opaque, whiteout};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use sys::Dir;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn fill(random: &mut Random, dir: &Dir, depth: u32, lowest: bool, format: Format) {
    for name in NAMES {
        match random.below(8) {
            0..=2 => {
                let file = dir.create_new(name, Mode::from_raw_mode(0o644)).unwrap();
                file.write_all_at(name.repeat(random.below(40) as usize).as_bytes(), 0)
                    .unwrap();
                if random.below(4) == 0 {
                    let _ = dir.link(dir, name, format!("{name}x"));
                }
            }
            3..=5 if depth > 0 => {
                dir.mkdir(name, Mode::from_raw_mode(0o755)).unwrap();
                let child = dir.open_dir(name).unwrap();
                if !lowest && random.below(5) == 0 {
                    Opaque::Yes.write(child.as_fd(), format.prefix).unwrap();
                    fill(random, &child, depth - 1, true, format);
                } else {
                    fill(random, &child, depth - 1, lowest, format);
                }
            }
            6 if !lowest => whiteout::make(dir, OsStr::new(name), format).unwrap(),
            7 => dir.symlink("nowhere", name).unwrap(),
            _ => {}
        }
    }
}

/// Comes before a link count, which is no part of what is compared with the plain directory: a lower file's counts
/// names that the layers above hide, too.
const LINKS: &str = " links ";

/// Everything that is seen beneath a directory, one line an entry.
fn seen(root: &Path, at: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // A directory of one layer alone is listed by the file system below, whiteouts and all.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{path:?}: {error}"),
        };
        let kind = meta.file_type();
        let owner = format!("{:o} {} {}", meta.mode() & 0o7777, meta.uid(), meta.gid());
        let mut value = [0; 16];
        let attribute = match rustix::fs::lgetxattr(&path, "trusted.test", &mut value) {
            Ok(length) => format!("{:?}", &value[..length]),
            Err(_) => String::new(),
        };
        let what = if kind.is_dir() {
            seen(root, &path, all);
            format!("dir {owner} {attribute}")
        } else if kind.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_fifo() {
            format!("fifo {owner}")
        } else if kind.is_char_device() {
            "whiteout".to_owned()
        } else {
            let bytes = fs::read(&path).unwrap();
            format!("file {owner} {attribute} {bytes:?}{LINKS}{}", meta.nlink())
        };
        all.insert(path.strip_prefix(root).unwrap().to_owned(), what);
    }
}

/// The same of the live overlay.
fn shown(overlay: &Overlay, node: NodeId, at: &Path, all: &mut BTreeMap<PathBuf, String>) {
    let mut names = Vec::new();
    overlay
        .list(node, 0, &mut |entry| {
            names.push((entry.name.to_owned(), entry.ino, entry.file_type));
            true
        })
        .unwrap();
    for (name, ino, file_type) in names {
        if name == "." || name == ".." {
            continue;
        }
        let path = at.join(&name);
        let found = overlay
            .lookup(node, &name)
            .unwrap_or_else(|errno| panic!("listed but not found: {path:?}: {errno}"));
        let stat = found.attr;
        assert_eq!(stat.st_ino, ino, "{path:?}: d_ino");
        assert_eq!(
            FileType::from_raw_mode(stat.st_mode),
            file_type,
            "{path:?}: d_type"
        );
        let owner = format!("{:o} {} {}", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        let attribute = match overlay.getxattr(found.node, OsStr::new("trusted.test")) {
            Ok(value) => format!("{value:?}"),
            Err(_) => String::new(),
        };
        let what = match file_type {
            FileType::Directory => {
                shown(overlay, found.node, &path, all);
                format!("dir {owner} {attribute}")
            }
            FileType::Symlink => {
                let target = overlay.readlink(found.node).unwrap();
                format!("link {:?}", OsStr::from_bytes(&target))
            }
            FileType::Fifo => format!("fifo {owner}"),
            _ => {
                let open = overlay.open(found.node, OFlags::RDONLY, false).unwrap();
                let file = open.file(overlay).unwrap();
                let mut bytes = vec![0; stat.st_size as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                format!("file {owner} {attribute} {bytes:?}{LINKS}{}", stat.st_nlink)
            }
        };
        overlay.forget(found.node, 1);
        all.insert(path, what);
    }
}

/// Both sides, by paths.
struct Pair<'a> {
    overlay: &'a Overlay,
    plain: &'a Path,
}

enum Skip {
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
fn path(random: &mut Random, plain: &Path) -> PathBuf {
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
fn step(random: &mut Random, pair: &Pair<'_>, number: u64) -> String {
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

fn run(seed: u64, steps: u64, format: Format) {
    let options = || Options {
        prefix: format.prefix,
        whiteouts: format.whiteouts,
        index: true,
        ..Options::default()
    };
    let trusted = format == Format::TRUSTED;
    let temp = tempfile::tempdir().unwrap();
    let random = &mut Random(seed);
    let at = |name: &str| temp.path().join(name);
    let count = 1 + random.below(3);
    let mut lowers = Vec::new();
    for number in 0..count {
        let dir = at(&format!("lower{number}"));
        fs::create_dir(&dir).unwrap();
        fill(
            random,
            &Dir::open_ambient(&dir).unwrap(),
            3,
            number + 1 == count,
            format,
        );
        lowers.push(dir);
    }
    for name in ["upper", "work", "merged", "plain"] {
        fs::create_dir(at(name)).unwrap();
    }
    let kernel = |writable: bool, look: &mut dyn FnMut(&Path)| {
        let lower: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
        let (upper, work, merged) = (at("upper"), at("work"), at("merged"));
        let value = match writable {
            true => Mount::overlay(&lower, Some((&upper, &work)), &["redirect_dir=on", "index=on"]),
            false => {
                fs::create_dir(at("empty")).unwrap();
                let empty = at("empty");
                let mut all = lower.clone();
                all.push(&empty);
                Mount::overlay(&all, None, if trusted { &[] } else { &["userxattr"] })
            }
        };
        attach(&value, &merged);
        look(&merged);
        mount::detach(&merged).unwrap();
    };
    kernel(false, &mut |merged| {
        // It complains of whiteouts in directories of one layer alone, which are listed and not found.
        let copy = Command::new("cp")
            .arg("-a")
            .arg(merged.join("."))
            .arg(at("plain"))
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&copy.stderr).into_owned();
        assert!(
            complaints.lines().all(|line| line.contains("No such file")),
            "{complaints}"
        );
    });
    let before: Vec<_> = lowers.iter().map(|dir| tree(dir)).collect();
    let open = || overlay_at(temp.path(), &lowers, options());
    let plain = at("plain");
    let mut log = Vec::new();
    for round in 0..3 {
        let overlay = open();
        let pair = Pair {
            overlay: &overlay,
            plain: &plain,
        };
        for number in 0..steps {
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(random, &pair, number)));
            match result {
                Ok(line) if line.ends_with("Ok(())") => log.push(line),
                Ok(_) => {}
                Err(cause) => {
                    let cause = cause.downcast_ref::<String>().map_or("a panic", String::as_str);
                    panic!(
                        "seed {seed}, round {round}: {cause}
after:
{}",
                        log.join(
                            "
"
                        )
                    );
                }
            }
            if number % 25 == 24 {
                compare(seed, &log, &overlay, &plain);
            }
        }
        compare(seed, &log, &overlay, &plain);
        drop(overlay);
        // Another server finds the same, and so does the kernel.
        let again = open();
        compare(seed, &log, &again, &plain);
        let mut ours = BTreeMap::new();
        shown(&again, ROOT, Path::new(""), &mut ours);
        drop(again);
        // The kernel follows no redirects under the user prefix.
        if trusted {
            kernel(true, &mut |merged| {
                let mut theirs = BTreeMap::new();
                seen(merged, merged, &mut theirs);
                difference(seed, &log, "ours", &ours, "the kernel's", &theirs);
            });
        }
    }
    let after: Vec<_> = lowers.iter().map(|dir| tree(dir)).collect();
    assert_eq!(before, after, "a lower directory changed");
}

/// Mounts with the kernel's driver. It calls directories busy until the last user of their mount before is gone, which
/// a program that another test of this process starts may be between its fork and its exec.
fn attach(value: &Mount, at: &Path) {
    for _ in 0..1000 {
        match mount::attach(value, at) {
            Err(error) if error.to_string().contains("busy") => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => return other.expect("mounting an overlay needs root"),
        }
    }
    panic!("{value:?} stays busy")
}

/// A live overlay of lower directories and of `upper` and `work` in a scratch directory.
fn overlay_at(scratch: &Path, lowers: &[PathBuf], options: Options) -> Overlay {
    for _ in 0..1000 {
        let layers = Layers {
            lower: lowers.iter().map(|dir| Dir::open_ambient(dir).unwrap()).collect(),
            upper: Some(Dir::open_ambient(scratch.join("upper")).unwrap()),
            work: Some(Dir::open_ambient(scratch.join("work")).unwrap()),
        };
        match Overlay::new(layers, options.clone()) {
            // A program that another test of this process starts holds the lock between its fork and its exec.
            Err(OpenError::InUse) => std::thread::sleep(std::time::Duration::from_millis(1)),
            other => return other.unwrap(),
        }
    }
    panic!("the work directory stays locked")
}

fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    seen(dir, dir, &mut all);
    all
}

fn compare(seed: u64, log: &[String], overlay: &Overlay, plain: &Path) {
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    shown(overlay, ROOT, Path::new(""), &mut ours);
    seen(plain, plain, &mut theirs);
    for line in ours.values_mut().chain(theirs.values_mut()) {
        if let Some(end) = line.find(LINKS) {
            line.truncate(end);
        }
    }
    difference(seed, log, "ours", &ours, "plain", &theirs);
}

fn difference(
    seed: u64,
    log: &[String],
    who: &str,
    ours: &BTreeMap<PathBuf, String>,
    other: &str,
    plain: &BTreeMap<PathBuf, String>,
) {
    let mut wrong = Vec::new();
    for path in ours.keys().chain(plain.keys()) {
        if ours.get(path) != plain.get(path) {
            wrong.push(format!(
                "{path:?}: {who} {:?}, {other} {:?}",
                ours.get(path),
                plain.get(path)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "seed {seed}:\n{}\n{}",
        log.join("\n"),
        wrong.join("\n")
    );
}

/// The seeds to run: `count` of them, or those that `STRATA_SEEDS=FIRST+COUNT` says.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let seeds = std::env::var("STRATA_SEEDS").ok();
    let (first, count) = match seeds.as_deref().and_then(|seeds| seeds.split_once('+')) {
        Some((first, count)) => (first.parse().unwrap(), count.parse().unwrap()),
        None => (1, count),
    };
    first..first + count
}

#[test]
fn random_changes_are_those_of_a_plain_directory_and_the_kernel_reads_them() {
    for seed in seeds(5) {
        run(seed, 120, Format::TRUSTED);
        run(seed, 120, Format::USER);
    }
}

/// Does one random thing, as one of several threads that do; what it answered.
fn poke(random: &mut Random, overlay: &Overlay) -> Result<(), Errno> {
    let held = std::cell::RefCell::new(Vec::new());
    let find = |random: &mut Random| -> Result<(NodeId, &'static str), Errno> {
        let mut at = ROOT;
        for _ in 0..random.below(3) {
            at = overlay.lookup(at, OsStr::new(random.pick(&NAMES)))?.node;
            held.borrow_mut().push(at);
        }
        Ok((at, random.pick(&NAMES)))
    };
    let keep = |found: overlay::live::Found| held.borrow_mut().push(found.node);
    let caller = Caller::default();
    let mut act = || -> Result<(), Errno> {
        let (dir, name) = find(random)?;
        let name = OsStr::new(name);
        match random.below(9) {
            0 => overlay
                .create(dir, name, OFlags::WRONLY, 0o644, caller)
                .map(|(found, _)| keep(found)),
            1 => overlay.mkdir(dir, name, 0o755, caller).map(keep),
            2 => overlay.unlink(dir, name),
            3 => overlay.rmdir(dir, name),
            4 | 5 => {
                let (to, new_name) = find(random)?;
                let flags = random.pick(&[RenameFlags::empty(), RenameFlags::EXCHANGE]);
                overlay.rename(dir, name, to, OsStr::new(new_name), flags)
            }
            6 => {
                let found = overlay.lookup(dir, name)?;
                keep(found);
                let file = overlay.open(found.node, OFlags::RDWR, false)?;
                file.file(overlay)?
                    .write_all_at(b"some", random.below(9))
                    .map_err(|_| Errno::IO)
            }
            7 => {
                let found = overlay.lookup(dir, name)?;
                keep(found);
                let (to, new_name) = find(random)?;
                overlay.link(found.node, to, OsStr::new(new_name)).map(keep)
            }
            _ => overlay.list(dir, 0, &mut |entry| {
                if entry.name != "."
                    && entry.name != ".."
                    && let Ok(found) = overlay.lookup(dir, entry.name)
                {
                    keep(found);
                }
                true
            }),
        }
    };
    let result = act();
    for node in held.into_inner() {
        overlay.forget(node, 1);
    }
    result
}

#[test]
fn threads_that_change_the_same_directories_leave_one_sound_tree() {
    for seed in seeds(8) {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(at(name)).unwrap();
        }
        fill(
            &mut Random(seed),
            &Dir::open_ambient(at("lower")).unwrap(),
            3,
            true,
            Format::TRUSTED,
        );
        let open = || {
            let options = Options {
                index: true,
                ..Options::default()
            };
            overlay_at(temp.path(), &[at("lower")], options)
        };
        let overlay = open();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let overlay = &overlay;
                scope.spawn(move || {
                    let random = &mut Random(seed * 1000 + thread);
                    for _ in 0..400 {
                        let result = poke(random, overlay);
                        let defect = matches!(result, Err(Errno::IO | Errno::STALE | Errno::XDEV));
                        assert!(!defect, "seed {seed}: {result:?}");
                    }
                });
            }
        });
        let (mut ours, mut again, mut theirs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        assert_eq!(overlay.known(), 1, "seed {seed}: every reference was given back");
        shown(&overlay, ROOT, Path::new(""), &mut ours);
        drop(overlay);
        let other = open();
        shown(&other, ROOT, Path::new(""), &mut again);
        drop(other);
        difference(seed, &[], "ours", &ours, "the next server's", &again);
        let (upper, work, merged) = (at("upper"), at("work"), at("merged"));
        let value = Mount::overlay(
            &[&at("lower")],
            Some((&upper, &work)),
            &["redirect_dir=on", "index=on"],
        );
        attach(&value, &merged);
        seen(&merged, &merged, &mut theirs);
        mount::detach(&merged).unwrap();
        difference(seed, &[], "ours", &ours, "the kernel's", &theirs);
    }
}
