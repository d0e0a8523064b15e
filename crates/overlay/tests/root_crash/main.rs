//! A server that dies in the middle: an operation of [`overlay::live`] runs in a process of its own, which is killed
//! right before the first of the system calls that change something, then, on fresh layers, before the second, and so
//! on until the operation comes to its end. So every state that a crash of the server can leave is seen, without
//! a word about failure in the product.
//!
//! After each, our server and the kernel both show either exactly what was before or exactly what shall be; the lower
//! layer is as it was; nothing is left in the work directory; and the operation can be done again. Needs root and
//! strace.

mod place;
mod tracer;
mod view;

use std::ffi::OsStr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use overlay::Format;
use overlay::live::{Caller, NodeId, Overlay, ROOT, SetAttr};
use rustix::fs::{OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use place::Place;
use view::{View, difference};

type Done = Result<(), Errno>;

/// An operation.
struct Case {
    name: &'static str,
    /// What is done before, and not interrupted.
    before: Option<fn(&Overlay) -> Done>,
    operation: fn(&Overlay) -> Done,
    metacopy: bool,
    /// It needs the index, which goes with the prefix `trusted.` here.
    indexed: bool,
    /// It renames a directory of the lower layer: with the user prefix the kernel cannot follow.
    redirects: bool,
    /// What else a crash may show, made of what was before: where whiteouts are of the attribute kind, and where data
    /// is brought to a file that has only its metadata in the upper layer.
    between: Option<fn(&mut View)>,
}

const CASE: Case = Case {
    name: "",
    before: None,
    operation: |_| Ok(()),
    metacopy: false,
    indexed: false,
    redirects: false,
    between: None,
};

/// Of files with several links.
const fn indexed(name: &'static str, operation: fn(&Overlay) -> Done) -> Case {
    Case {
        name,
        operation,
        indexed: true,
        ..CASE
    }
}

/// After a file went over another, under a whiteout of the attribute kind: both names lead to it.
fn both(view: &mut View, old: &str, new: &str) {
    let first = Path::new(old).min(Path::new(new));
    let line = view[Path::new(old)].replace("links 1", "links 2");
    let line = line.replace(&format!("same as {old}"), &format!("same as {}", first.display()));
    view.insert(old.into(), line.clone());
    view.insert(new.into(), line);
}

/// The files were written to.
fn changed(view: &mut View, paths: &[&str]) {
    for path in paths {
        let line = &view[Path::new(path)];
        let time = line
            .split(" time ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let line = line.replace(time.expect("files have one"), "now");
        view.insert(path.into(), line);
    }
}

const fn case(name: &'static str, operation: fn(&Overlay) -> Done) -> Case {
    Case {
        name,
        operation,
        ..CASE
    }
}

fn node(overlay: &Overlay, path: &str) -> Result<NodeId, Errno> {
    let mut at = ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = overlay.lookup(at, OsStr::new(name))?.node;
    }
    Ok(at)
}

fn parent<'p>(overlay: &Overlay, path: &'p str) -> Result<(NodeId, &'p OsStr), Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    Ok((node(overlay, parent)?, OsStr::new(name)))
}

fn open(overlay: &Overlay, path: &str, flags: OFlags) -> Done {
    overlay.open(node(overlay, path)?, flags, false).map(drop)
}

fn chmod(overlay: &Overlay, path: &str) -> Done {
    let set = SetAttr {
        mode: Some(0o604),
        ..SetAttr::default()
    };
    overlay.setattr(node(overlay, path)?, &set, None).map(drop)
}

fn truncate(overlay: &Overlay, path: &str, size: u64) -> Done {
    let set = SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    overlay.setattr(node(overlay, path)?, &set, None).map(drop)
}

fn set(overlay: &Overlay, path: &str) -> Done {
    let name = OsStr::new("trusted.more");
    overlay.setxattr(node(overlay, path)?, name, b"value", XattrFlags::empty(), false)
}

fn unlink(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.unlink(parent, name)
}

fn rmdir(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.rmdir(parent, name)
}

fn rename_with(overlay: &Overlay, old: &str, new: &str, flags: RenameFlags) -> Done {
    let (from, name) = parent(overlay, old)?;
    let (to, new_name) = parent(overlay, new)?;
    overlay.rename(from, name, to, new_name, flags)
}

fn rename(overlay: &Overlay, old: &str, new: &str) -> Done {
    rename_with(overlay, old, new, RenameFlags::empty())
}

fn exchange(overlay: &Overlay, old: &str, new: &str) -> Done {
    rename_with(overlay, old, new, RenameFlags::EXCHANGE)
}

fn link(overlay: &Overlay, old: &str, new: &str) -> Done {
    let (to, new_name) = parent(overlay, new)?;
    overlay.link(node(overlay, old)?, to, new_name).map(drop)
}

const MAKER: Caller = Caller {
    uid: 1234,
    gid: 1235,
    group: None,
    umask: 0o027,
};

fn create(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay
        .create(parent, name, OFlags::WRONLY, 0o664, MAKER)
        .map(drop)
}

fn mkdir(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.mkdir(parent, name, 0o777, MAKER).map(drop)
}

fn symlink(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay
        .symlink(parent, name, OsStr::new("where"), MAKER)
        .map(drop)
}

fn mknod(overlay: &Overlay, path: &str) -> Done {
    let (parent, name) = parent(overlay, path)?;
    overlay.mknod(parent, name, 0o010664, 0, MAKER).map(drop)
}

fn formats(case: &Case) -> Vec<(&'static str, Format)> {
    match case.metacopy || case.indexed {
        true => vec![("trusted", Format::TRUSTED)],
        false => vec![("trusted", Format::TRUSTED), ("user", Format::USER)],
    }
}

/// Cuts every case short everywhere, in memory.
fn cut_short(test: &str, cases: &[Case]) {
    if !is_told(cases) {
        cut_short_in(Path::new("/dev/shm"), test, cases);
    }
}

/// In the process that is to be killed, does the one that it is told.
fn is_told(cases: &[Case]) -> bool {
    if let Ok(told) = std::env::var(tracer::OPERATION) {
        let (name, place) = told.split_once(' ').expect("an operation and a place");
        let (format, name) = name.split_once(':').expect("a format and a case");
        let case = cases
            .iter()
            .find(|case| case.name == name)
            .expect("a case of this test");
        let all = formats(case);
        let (_, format) = all.iter().find(|known| known.0 == format).expect("a format");
        // Seen by who traces.
        let _ = std::fs::File::open(tracer::BEGIN);
        let overlay = place::open(Path::new(place), *format, case.metacopy);
        (case.operation)(&overlay).expect("the operation succeeds");
        return true;
    }
    false
}

/// Cuts every case short everywhere, with the layers in `base`; the calls of each.
fn cut_short_in(base: &Path, test: &str, cases: &[Case]) -> Vec<String> {
    let mut calls = Vec::new();
    let only = std::env::var("STRATA_CRASH_ONLY").unwrap_or_default();
    let mut wrong = Vec::new();
    for case in cases {
        for (name, format) in formats(case) {
            let operation = format!("{name}:{}", case.name);
            if operation.contains(&only) {
                calls.extend(cut_case(base, test, &operation, case, format, &mut wrong));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    calls
}

fn prepared(base: &Path, case: &Case, format: Format) -> Place {
    let place = Place::new(base, format, case.metacopy);
    if let Some(before) = case.before {
        before(&place.open()).expect("what is done before");
    }
    place
}

fn cut_case(
    base: &Path,
    test: &str,
    operation: &str,
    case: &Case,
    format: Format,
    wrong: &mut Vec<String>,
) -> Vec<String> {
    let kernel_follows = format == Format::TRUSTED || !case.redirects;
    let place = prepared(base, case, format);
    let lower = place.lower();
    let old = view::ours(&place.open());
    let moments = tracer::moments(test, operation, place.path());
    let new = view::ours(&place.open());
    let mut between = old.clone();
    if (format == Format::USER || case.metacopy)
        && let Some(change) = case.between
    {
        change(&mut between);
    }
    let mut say = |moment: &str, what: String| wrong.push(format!("{operation}, before {moment}: {what}"));
    if kernel_follows {
        let kernel = place.kernel();
        if kernel != new {
            say(
                "-",
                format!(
                    "the kernel sees the end otherwise:\n{}",
                    difference(&new, &kernel)
                ),
            );
        }
    }
    assert!(!moments.is_empty(), "{operation} changes nothing");
    for moment in &moments {
        for kernel_first in [true, false] {
            if kernel_first && !kernel_follows {
                continue;
            }
            let place = prepared(base, case, format);
            tracer::kill_at(test, operation, place.path(), moment);
            let mut views = Vec::new();
            if kernel_first {
                views.push(("the kernel", place.kernel()));
            }
            let again = place.open();
            if !place.work().iter().all(|path| path.starts_with("index")) {
                say(&moment.line, format!("left in work: {:?}", place.work()));
            }
            let index = place.work();
            views.push(("ours", view::ours(&again)));
            drop(again);
            if !kernel_first && kernel_follows {
                views.push(("the kernel, after ours", place.kernel()));
                if place.work() != index {
                    say(
                        &moment.line,
                        format!("the kernel cleans more: {:?} of {index:?}", place.work()),
                    );
                }
            }
            let (mut is_new, mut is_between) = (false, false);
            for (who, view) in &views {
                (is_new, is_between) = (*view == new, *view == between && between != old);
                if *view != old && *view != new && *view != between {
                    let what = format!(
                        "{who} shows neither old nor new; than old:\n{}than new:\n{}",
                        difference(&old, view),
                        difference(&new, view)
                    );
                    say(&moment.line, what);
                }
                if *view != views[0].1 {
                    let what = difference(&views[0].1, view);
                    say(&moment.line, format!("{who} and {} differ:\n{what}", views[0].0));
                }
            }
            // With two names for one file rename(2) has nothing to do, and a time is not brought back.
            if !is_new && (!is_between || case.redirects) {
                let overlay = place.open();
                if let Err(errno) = (case.operation)(&overlay) {
                    say(&moment.line, format!("cannot be done again: {errno}"));
                }
                let view = view::ours(&overlay);
                if view != new {
                    say(
                        &moment.line,
                        format!("done again, it is\n{}", difference(&new, &view)),
                    );
                }
            }
            if place.lower() != lower {
                say(&moment.line, "the lower layer changed".to_owned());
            }
        }
    }
    moments.into_iter().map(|moment| moment.line).collect()
}

#[test]
fn copy_up() {
    cut_short(
        "copy_up",
        &[
            case("open", |o| open(o, "f", OFlags::RDWR)),
            case("open-deep", |o| open(o, "d/e/deep", OFlags::WRONLY)),
            case("write", |o| {
                let open = o.open(node(o, "f")?, OFlags::RDWR, false)?;
                let written = open.file(o)?.write_at(b"new", 0);
                written.map(drop).map_err(|_| Errno::IO)
            }),
            case("open-truncate", |o| {
                open(o, "d/f", OFlags::WRONLY | OFlags::TRUNC)
            }),
            case("truncate", |o| truncate(o, "f", 100)),
            case("chmod", |o| chmod(o, "f")),
            case("setxattr", |o| set(o, "d/f")),
            indexed("hard-link", |o| open(o, "h1", OFlags::RDWR)),
            indexed("hard-link-chmod", |o| chmod(o, "d/h3")),
            case("symlink", |o| set(o, "link")),
            case("fifo", |o| chmod(o, "fifo")),
            case("device", |o| chmod(o, "null")),
            case("directory", |o| chmod(o, "d/e")),
        ],
    );
}

/// On a file system whose files share blocks a copy is one call.
#[test]
fn copy_up_by_reflink() {
    let cases = [
        case("open", |o| open(o, "f", OFlags::RDWR)),
        case("setxattr", |o| set(o, "d/f")),
        indexed("hard-link", |o| open(o, "h1", OFlags::RDWR)),
    ];
    if is_told(&cases) {
        return;
    }
    let disk = testkit::disk::Disk::xfs();
    let calls = cut_short_in(&disk.path(), "copy_up_by_reflink", &cases);
    let shared = |line: &&String| line.contains("FICLONE") && line.ends_with("= 0");
    assert!(calls.iter().filter(shared).count() >= 5, "{calls:#?}");
}

#[test]
fn metacopy() {
    let meta = |name, operation: fn(&Overlay) -> Done| Case {
        metacopy: true,
        before: Some(|o| chmod(o, "f")),
        // Its last change, as with the kernel.
        between: Some(|view| changed(view, &["f"])),
        ..case(name, operation)
    };
    cut_short(
        "metacopy",
        &[
            Case {
                before: None,
                ..meta("chmod", |o| chmod(o, "f"))
            },
            meta("complete", |o| open(o, "f", OFlags::RDWR)),
            meta("truncate", |o| truncate(o, "f", 100)),
            meta("open-truncate", |o| open(o, "f", OFlags::WRONLY | OFlags::TRUNC)),
            meta("rename", |o| rename(o, "f", "d/new")),
            meta("link", |o| link(o, "f", "d/new")),
            meta("unlink", |o| unlink(o, "f")),
            Case {
                before: Some(|o| chmod(o, "h2")),
                between: Some(|view| changed(view, &["h1", "h2", "d/h3"])),
                ..meta("hard-link-complete", |o| open(o, "h1", OFlags::RDWR))
            },
        ],
    );
}

#[test]
fn removal() {
    let prepared = |name: &'static str, before, operation| Case {
        before: Some(before),
        ..match name.contains("hard-link") {
            true => indexed(name, operation),
            false => case(name, operation),
        }
    };
    cut_short(
        "removal",
        &[
            case("lower", |o| unlink(o, "d/e/deep")),
            case("second-lower", |o| unlink(o, "f")),
            case("upper", |o| unlink(o, "mine")),
            case("upper-over-lower", |o| unlink(o, "over")),
            indexed("hard-link", |o| unlink(o, "h2")),
            prepared("hard-link-copied-up", |o| chmod(o, "h1"), |o| unlink(o, "h1")),
            prepared("other-hard-link", |o| chmod(o, "h1"), |o| unlink(o, "d/h3")),
            prepared(
                "last-hard-link",
                |o| unlink(o, "h1").and_then(|()| unlink(o, "h2")),
                |o| unlink(o, "d/h3"),
            ),
            case("rmdir-lower", |o| rmdir(o, "empty")),
            case("rmdir-merged", |o| rmdir(o, "emptied")),
            case("rmdir-nested", |o| rmdir(o, "dir/all")),
            prepared(
                "rmdir-upper",
                |o| unlink(o, "own/in/deep"),
                |o| rmdir(o, "own/in"),
            ),
            Case {
                redirects: true,
                ..prepared(
                    "rmdir-upper-with-whiteouts",
                    |o| rename(o, "emptied", "moved"),
                    |o| rmdir(o, "moved"),
                )
            },
        ],
    );
}

#[test]
fn renaming_files() {
    let prepared = |name: &'static str, before, operation| Case {
        before: Some(before),
        ..indexed(name, operation)
    };
    let replacing = |name, operation, between: fn(&mut View)| Case {
        between: Some(between),
        ..case(name, operation)
    };
    cut_short(
        "renaming_files",
        &[
            case("lower", |o| rename(o, "f", "new")),
            case("lower-into-another", |o| rename(o, "d/e/deep", "dir/sub/new")),
            case("upper", |o| rename(o, "mine", "d/new")),
            case("upper-over-lower", |o| rename(o, "over", "d/new")),
            case("over-whiteout", |o| rename(o, "mine", "gone")),
            case("lower-over-whiteout", |o| rename(o, "f", "gone")),
            case("upper-over-upper", |o| rename(o, "mine", "dir/new")),
            case("upper-over-a-lower", |o| rename(o, "mine", "d/f")),
            replacing(
                "lower-over-lower",
                |o| rename(o, "f", "g"),
                |view| both(view, "f", "g"),
            ),
            replacing(
                "lower-over-upper",
                |o| rename(o, "f", "mine"),
                |view| both(view, "f", "mine"),
            ),
            replacing(
                "lower-over-both",
                |o| rename(o, "d/f", "over"),
                |view| both(view, "d/f", "over"),
            ),
            indexed("hard-link", |o| rename(o, "h1", "new")),
            indexed("over-a-hard-link", |o| rename(o, "mine", "h2")),
            indexed("hard-link-over-lower", |o| rename(o, "h1", "f")),
            prepared(
                "hard-link-copied-up",
                |o| chmod(o, "h1"),
                |o| rename(o, "h2", "d/new"),
            ),
            prepared(
                "over-a-hard-link-copied-up",
                |o| chmod(o, "h1"),
                |o| rename(o, "over", "h2"),
            ),
            case("symlink", |o| rename(o, "link", "d/new")),
            case("exchange", |o| exchange(o, "f", "d/f")),
            case("exchange-with-upper", |o| exchange(o, "f", "mine")),
            indexed("exchange-hard-links", |o| exchange(o, "h1", "f")),
        ],
    );
}

#[test]
fn renaming_directories() {
    let redirects = |name, operation| Case {
        redirects: true,
        ..case(name, operation)
    };
    // The empty directory goes first.
    let replacing = |name, operation, between: fn(&mut View)| Case {
        between: Some(between),
        ..redirects(name, operation)
    };
    cut_short(
        "renaming_directories",
        &[
            redirects("lower", |o| rename(o, "d", "new")),
            redirects("merged", |o| rename(o, "dir", "new")),
            redirects("into-another", |o| rename(o, "dir/sub", "d/e/new")),
            redirects("again", |o| rename(o, "dir", "d/new")),
            case("own", |o| rename(o, "own", "new")),
            case("own-into-merged", |o| rename(o, "own/in", "dir/moved")),
            case("own-over-whiteout", |o| rename(o, "own", "gonedir")),
            redirects("lower-over-whiteout", |o| rename(o, "d", "gone")),
            case("own-over-lower", |o| rename(o, "own", "empty")),
            case("own-over-emptied", |o| rename(o, "own", "emptied")),
            replacing(
                "lower-over-lower",
                |o| rename(o, "d", "empty"),
                |view| drop(view.remove(Path::new("empty"))),
            ),
            replacing(
                "lower-over-emptied",
                |o| rename(o, "d", "emptied"),
                |view| drop(view.remove(Path::new("emptied"))),
            ),
            replacing(
                "merged-over-emptied",
                |o| rename(o, "dir", "emptied"),
                |view| drop(view.remove(Path::new("emptied"))),
            ),
            replacing(
                "lower-over-upper",
                |o| rename(o, "d", "target"),
                |view| drop(view.remove(Path::new("target"))),
            ),
            redirects("exchange", |o| exchange(o, "d", "dir")),
            redirects("exchange-with-file", |o| exchange(o, "dir", "f")),
            redirects("exchange-with-own", |o| exchange(o, "own", "d/e")),
        ],
    );
}

#[test]
fn making() {
    cut_short(
        "making",
        &[
            case("create", |o| create(o, "new")),
            case("create-in-lower", |o| create(o, "d/e/new")),
            case("create-over-whiteout", |o| create(o, "gone")),
            case("create-inheriting", |o| create(o, "sg/new")),
            case("create-inheriting-over-whiteout", |o| create(o, "sg/w")),
            case("mkdir", |o| mkdir(o, "d/new")),
            case("mkdir-over-whiteout", |o| mkdir(o, "gonedir")),
            case("mkdir-inheriting-over-whiteout", |o| mkdir(o, "sg/wd")),
            case("symlink-over-whiteout", |o| symlink(o, "gone")),
            case("symlink-inheriting-over-whiteout", |o| symlink(o, "sg/w")),
            case("mknod-over-whiteout", |o| mknod(o, "sg/w")),
            case("link", |o| link(o, "f", "d/new")),
            case("link-upper", |o| link(o, "mine", "d/new")),
            case("link-over-whiteout", |o| link(o, "f", "gone")),
            indexed("link-a-hard-link", |o| link(o, "h2", "d/new")),
            case("link-into-inheriting", |o| link(o, "f", "sg/w")),
        ],
    );
}
