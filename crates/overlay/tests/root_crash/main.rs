//! A server that dies in the middle: an operation of [`overlay::live`] runs in a process of its own, which is killed
//! right before the first of the system calls that change something, then, on fresh layers, before the second, and so
//! on until the operation comes to its end. So every state that a crash of the server can leave is seen, without
//! a word about failure in the product.
//!
//! After each, our server and the kernel both show either exactly what was before or exactly what shall be; the lower
//! layer is as it was; nothing is left in the work directory; and the operation can be done again. Needs root and
//! strace.

mod cut;
mod operations;
mod place;
mod tracer;
mod view;

use std::os::unix::fs::FileExt;
use std::path::Path;

use cut::{Case, case, cut_short, cut_short_in, indexed, is_told};
use operations::*;
use overlay::live::Overlay;
use rustix::fs::OFlags;
use rustix::io::Errno;
use view::View;

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
