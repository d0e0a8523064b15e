//! What each kind of entry becomes in a layer. Needs root: owners, devices, trusted attributes.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use image::tar::{Entry, Kind, Time};
use support::*;

fn attribute(entry: &mut Entry, name: &str, value: &[u8]) {
    entry.xattrs.push((name.into(), value.to_vec()));
}

/// A version-2 capability: cap_net_raw, effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn is_whiteout(path: &Path) -> bool {
    let meta = fs::symlink_metadata(path).unwrap();
    meta.file_type().is_char_device() && meta.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    xattrs(path).get("trusted.overlay.opaque").map(Vec::as_slice) == Some(b"y")
}

#[test]
fn everything_about_a_file_is_kept() {
    let tar = Tar::new()
        .dir("d", 0o2771)
        .file_with("d/f", "data", |entry| {
            (entry.mode, entry.uid, entry.gid) = (0o6755, 1000, 2000);
            attribute(entry, "user.k", b"\0v");
            attribute(entry, "security.capability", &CAPABILITY);
            attribute(entry, "trusted.k", b"t");
            attribute(entry, "security.selinux", b"not ours");
        })
        .file_with("d/root", "", |entry| entry.mode = 0o1400)
        .file_with("d/old", "", |entry| entry.mtime = Time { secs: -2, nanos: 5 })
        .file_with("d/read", "", |entry| {
            entry.atime = Some(Time { secs: 7, nanos: 8 })
        })
        .file("d/big", vec![3; 1_000_000]);
    let layer = layer(tar, &[]);
    let read = fs::metadata(layer.at("d/read")).unwrap();
    assert_eq!((read.atime(), read.atime_nsec()), (7, 8));
    let seen = layer.seen();
    let data = store::Digest::of("data").hex();
    assert_eq!(
        seen[Path::new("d/f")],
        format!(
            "106755 1000:2000 1700000000.123456789 security.capability={} trusted.k=t user.k=\\x00v 4 bytes {data}",
            CAPABILITY.escape_ascii()
        )
    );
    assert!(seen[Path::new("d/root")].starts_with("101400 0:0 "));
    assert!(seen[Path::new("d/old")].contains(" -2.000000005 "));
    assert_eq!(seen[Path::new("d")], "42771 0:0 1700000000.123456789");
    // The set-group-id bit of the directory came last: nothing in it took the directory's group.
    assert_eq!(fs::metadata(layer.at("d/big")).unwrap().gid(), 0);
    assert!(!layer.unpacked.root_listed && !layer.unpacked.depends_on_below);
}

#[test]
fn links_devices_and_pipes() {
    let tar = Tar::new()
        .entry(Kind::Symlink, "l", |entry| {
            entry.link = b"../anywhere/\xff".to_vec();
            (entry.uid, entry.gid) = (5, 6);
            attribute(entry, "trusted.k", b"v");
        })
        .symlink("long", "t/".repeat(2000))
        .device("null", Kind::CharDevice, 1, 3)
        .device("disk", Kind::BlockDevice, 8, 300)
        .device("zero", Kind::BlockDevice, 0, 0)
        .entry(Kind::Fifo, "pipe", |entry| (entry.mode, entry.uid) = (0o4622, 9));
    let layer = layer(tar, &[]);
    let seen = layer.seen();
    let at = |name: &str| seen[Path::new(name)].as_str();
    assert_eq!(
        at("l"),
        "120777 5:6 1700000000.123456789 trusted.k=v -> \"../anywhere/\\xFF\""
    );
    assert_eq!(at("null"), "20644 0:0 1700000000.123456789 device 103");
    assert_eq!(at("disk"), "60644 0:0 1700000000.123456789 device 10082c");
    assert_eq!(at("zero"), "60644 0:0 1700000000.123456789 device 0");
    assert_eq!(at("pipe"), "14622 9:0 1700000000.123456789 device 0");
}

#[test]
fn directories_keep_times_and_modes_whatever_is_made_in_them() {
    let tar = Tar::new()
        .entry(Kind::Directory, "./", |entry| (entry.mode, entry.uid) = (0o751, 3))
        .dir("closed", 0)
        .file("closed/f", "")
        .entry(Kind::Directory, "acl/", |entry| {
            entry.mode = 0o755;
            // u::rwx, g::r-x, o::r-x, as a default for what is made in it.
            let acl = b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
            attribute(entry, "system.posix_acl_default", acl);
        })
        .file_with("acl/f", "", |entry| entry.mode = 0o666)
        .dir("acl/d", 0o777)
        .dir("tmp", 0o1777)
        .dir("closed/deep", 0o700)
        .file("closed/deep/f", "");
    let layer = layer(tar, &[]);
    assert!(layer.unpacked.root_listed);
    let seen = layer.seen();
    let at = |name: &str| seen[Path::new(name)].as_str();
    assert_eq!(at(""), "40751 3:0 1700000000.123456789");
    assert_eq!(at("closed"), "40000 0:0 1700000000.123456789");
    assert_eq!(at("tmp"), "41777 0:0 1700000000.123456789");
    assert_eq!(at("acl/d"), "40777 0:0 1700000000.123456789");
    assert!(
        at("acl/f").starts_with("100666 0:0 1700000000.123456789 0 bytes"),
        "{}",
        at("acl/f")
    );
    assert_eq!(xattrs(&layer.at("acl/f")), BTreeMap::new());
}

#[test]
fn names_are_made_relative_and_kept_as_bytes() {
    let tar = Tar::new()
        .file("/abs/f", "")
        .file("./dot//f", "")
        .file("up/../here", "")
        .file(b"\xff\n\\", "")
        .file("n".repeat(255), "");
    let layer = layer(tar, &[]);
    for name in ["abs/f", "dot/f", "here", &"n".repeat(255)] {
        assert!(layer.at(name).exists(), "{name}");
    }
    use std::os::unix::ffi::OsStrExt;
    assert!(layer.at(std::ffi::OsStr::from_bytes(b"\xff\n\\")).exists());
    assert!(!layer.at("up").exists());
}

#[test]
fn hard_links() {
    let tar = Tar::new()
        .dir("d", 0o755)
        .file("d/a", "first")
        .link("b", "d/a")
        .link("d/c", "/b")
        .link("b", "b")
        .file("d/a", "second")
        .symlink("s", "nowhere")
        .link("t", "./s")
        .device("null", Kind::CharDevice, 1, 3)
        .link("null2", "null")
        .file("x", "x")
        .link("x", "b");
    let layer = layer(tar, &[]);
    assert_eq!(fs::read_to_string(layer.at("d/a")).unwrap(), "second");
    let ino = |name: &str| fs::symlink_metadata(layer.at(name)).unwrap().ino();
    assert_eq!(fs::read_to_string(layer.at("d/c")).unwrap(), "first");
    assert_eq!((ino("b"), ino("x")), (ino("d/c"), ino("b")));
    assert_ne!(ino("b"), ino("d/a"));
    assert_eq!(ino("s"), ino("t"));
    assert_eq!(ino("null"), ino("null2"));
}

#[test]
fn a_hard_link_to_a_file_below_copies_it_up() {
    let bottom = layer(
        Tar::new()
            .dir("usr", 0o711)
            .dir("usr/bin", 0o2755)
            .file_with("usr/bin/tool", vec![1; 70_000], |entry| {
                (entry.mode, entry.uid) = (0o4755, 7);
                attribute(entry, "security.capability", &CAPABILITY);
                attribute(entry, "trusted.overlay.opaque", b"an image's own");
            })
            .symlink("usr/bin/link", "tool")
            .sparse("usr/sparse", 1 << 30, &[(1 << 20, b"data")]),
        &[],
    );
    let middle = layer(Tar::new().file("other", ""), &[]);
    let top = layer(
        Tar::new()
            .link("tool", "usr/bin/tool")
            .link("again", "tool")
            .link("link", "usr/bin/link")
            .link("sparse", "usr/sparse"),
        &[&middle, &bottom],
    );
    assert!(top.unpacked.depends_on_below);
    let (above, below) = (top.seen(), bottom.seen());
    for name in ["usr", "usr/bin"] {
        assert_eq!(above[Path::new(name)], below[Path::new(name)]);
    }
    let tool = &above[Path::new("usr/bin/tool")];
    let (same, linked) = tool.split_once(" linked ").unwrap();
    assert_eq!(same, below[Path::new("usr/bin/tool")]);
    assert_eq!(linked, "\"again\"");
    assert!(same.contains("trusted.overlay.overlay.opaque=an"));
    assert_eq!(fs::metadata(top.at("tool")).unwrap().nlink(), 3);
    assert_eq!(fs::read_link(top.at("link")).unwrap(), Path::new("tool"));
    let sparse = fs::metadata(top.at("sparse")).unwrap();
    assert_eq!(sparse.len(), 1 << 30);
    assert!(sparse.blocks() < 64);
}

#[test]
fn a_hard_link_sees_the_layers_below_only_as_this_layer_shows_them() {
    let bottom = layer(
        Tar::new()
            .dir("d", 0o755)
            .file("d/f", "")
            .symlink("l", "d")
            .file("g", ""),
        &[],
    );
    let hidden = [
        Tar::new().whiteout(".wh.g").link("x", "g"),
        Tar::new().whiteout("d/.wh.f").link("x", "d/f"),
        Tar::new().whiteout("d/.wh..wh..opq").link("x", "d/f"),
        Tar::new().whiteout(".wh.d").file("d/other", "").link("x", "d/f"),
        Tar::new().whiteout(".wh.d").link("x", "d/f"),
        Tar::new().whiteout(".wh..wh..opq").link("x", "g"),
        Tar::new().file("d", "").link("x", "d/f"),
        // A link of a layer below is not followed.
        Tar::new().link("x", "l/f"),
    ];
    for (case, tar) in hidden.into_iter().enumerate() {
        let error = try_layer(&tar.end(), &[&bottom])
            .err()
            .unwrap_or_else(|| panic!("case {case}"));
        assert!(chain(&error).contains("\"x\": a hard link to"), "{error}");
    }
    // What was only copied up is hidden by a later whiteout, as the file below is.
    let top = layer(Tar::new().link("x", "g").whiteout(".wh.g"), &[&bottom]);
    assert!(is_whiteout(&top.at("g")) && top.at("x").is_file());
    // And an entry of its own replaces it.
    let top = layer(Tar::new().link("x", "g").file("g", "new"), &[&bottom]);
    assert_eq!(fs::read_to_string(top.at("g")).unwrap(), "new");
    assert_eq!(fs::metadata(top.at("x")).unwrap().nlink(), 1);
}

#[test]
fn whiteouts_and_opaque_directories() {
    let tar = Tar::new()
        .whiteout(".wh.gone")
        .dir("opaque", 0o755)
        .file("opaque/new", "")
        .whiteout("opaque/.wh.idle")
        .whiteout("opaque/.wh..wh..opq")
        .dir("opaque/deeper", 0o755)
        .whiteout("opaque/deeper/.wh.idle")
        .whiteout("unlisted/.wh.x")
        .file_with(".wh.data", "data in a whiteout", |_| ());
    let layer = layer(tar, &[]);
    assert!(
        is_whiteout(&layer.at("gone"))
            && is_whiteout(&layer.at("unlisted/x"))
            && is_whiteout(&layer.at("data"))
    );
    assert!(is_opaque(&layer.at("opaque")));
    assert!(layer.at("opaque/new").exists() && !layer.at("opaque/idle").exists());
    assert!(!layer.at("opaque/deeper/idle").exists());
    assert!(
        layer
            .seen()
            .keys()
            .all(|path| !path.to_string_lossy().contains(".wh."))
    );
    assert_eq!(
        fs::symlink_metadata(layer.at("opaque")).unwrap().mtime_nsec(),
        123_456_789
    );
    assert!(layer.unpacked.depends_on_below, "on the attributes of `unlisted`");
}

#[test]
fn a_whiteout_of_what_the_layer_has_too_hides_only_what_is_below() {
    for first in [true, false] {
        let put = |tar: Tar, name: &str, add: &dyn Fn(Tar) -> Tar| {
            let whiteout = format!(".wh.{name}");
            if first {
                add(tar.whiteout(whiteout))
            } else {
                add(tar).whiteout(whiteout)
            }
        };
        let mut tar = Tar::new();
        tar = put(tar, "file", &|tar| tar.file("file", "new"));
        tar = put(tar, "link", &|tar| tar.symlink("link", "x"));
        tar = put(tar, "dir", &|tar| tar.dir("dir", 0o700).file("dir/f", ""));
        tar = put(tar, "unlisted", &|tar| tar.file("unlisted/f", ""));
        tar = put(tar, "hard", &|tar| tar.link("hard", "file"));
        let layer = layer(tar, &[]);
        assert!(layer.at("file").is_file() && layer.at("hard").is_file());
        assert!(layer.at("link").is_symlink());
        assert!(is_opaque(&layer.at("dir")) && is_opaque(&layer.at("unlisted")));
        assert_eq!(
            layer.seen()[Path::new("unlisted")],
            "40755 0:0 0.000000000 trusted.overlay.opaque=y"
        );
        assert!(
            !layer.unpacked.depends_on_below,
            "an unlisted directory that hides what is below takes nothing over"
        );
    }
}

#[test]
fn an_opaque_root_hides_each_thing_below() {
    let bottom = layer(
        Tar::new()
            .dir("kept", 0o711)
            .file("kept/f", "")
            .file("gone", "")
            .file("both", ""),
        &[],
    );
    let top = layer(
        Tar::new()
            .whiteout(".wh..wh..opq")
            .file("kept/g", "")
            .file("both", "new")
            .whiteout(".wh.never"),
        &[&bottom],
    );
    assert!(top.unpacked.depends_on_below);
    assert!(is_whiteout(&top.at("gone")) && is_opaque(&top.at("kept")) && !top.at("never").exists());
    assert!(top.at("both").is_file() && !is_opaque(&top.path()));
    assert!(top.seen()[Path::new("kept")].starts_with("40755 0:0 0."));
}

#[test]
fn bookkeeping_of_aufs_is_left_out() {
    let tar = Tar::new()
        .dir(".wh..wh.plnk", 0o700)
        .file(".wh..wh.plnk/12.34", "data")
        .file(".wh..wh.aufs", "")
        .dir("d/.wh..wh.orph", 0o700)
        .file("real", "");
    let layer = layer(tar, &[]);
    assert_eq!(
        layer
            .seen()
            .keys()
            .map(|path| path.to_str().unwrap())
            .collect::<Vec<_>>(),
        ["", "real"]
    );
}

#[test]
fn the_last_of_several_entries_wins_whatever_it_is() {
    let tar = Tar::new()
        .file("file", "one")
        .file("file", "two")
        .file("to-dir", "data of a file that becomes a directory")
        .dir("to-dir", 0o700)
        .file("to-dir/f", "f")
        .dir("to-file", 0o755)
        .dir("to-file/a", 0o755)
        .file(
            "to-file/a/deep",
            "data of a file in a directory that becomes a file",
        )
        .link("to-file/a/linked", "to-file/a/deep")
        .link("outer", "to-file/a/deep")
        .sparse("to-file/sparse", 1 << 24, &[(4096, b"some"), (1 << 20, b"more")])
        .file("to-file", "now a file")
        .symlink("link", "file")
        .file("link", "not through it")
        .dir("dir", 0o700)
        .file("dir/kept", "")
        .dir("dir", 0o755)
        .symlink("dir-to-link", "dir")
        .dir("dir-to-link", 0o711)
        .device("dev", Kind::CharDevice, 1, 3)
        .symlink("dev", "/dev/null")
        .file("twice", "1")
        .dir("twice", 0o755)
        .file("twice/x", "22")
        .file("twice", "333")
        .file("twice", "4444");
    let layer = layer(tar, &[]);
    let text = |name: &str| fs::read_to_string(layer.at(name)).unwrap();
    assert_eq!(
        (text("file"), text("to-file"), text("link")),
        ("two".into(), "now a file".into(), "not through it".into())
    );
    assert_eq!(text("outer"), "data of a file in a directory that becomes a file");
    assert!(layer.at("to-dir/f").is_file() && layer.at("dir/kept").is_file());
    assert_eq!(fs::metadata(layer.at("dir")).unwrap().mode(), 0o40755);
    assert_eq!(
        fs::symlink_metadata(layer.at("dir-to-link")).unwrap().mode(),
        0o40711
    );
    assert!(layer.at("dev").is_symlink());
    assert_eq!(text("twice"), "4444");
}

#[test]
fn unlisted_directories_are_taken_over_from_below() {
    let bottom = layer(
        Tar::new()
            .dir("usr", 0o755)
            .entry(Kind::Directory, "tmp/", |entry| {
                (entry.mode, entry.uid, entry.gid) = (0o1777, 3, 4)
            })
            .entry(Kind::Directory, "tmp/sub/", |entry| {
                entry.mode = 0o2750;
                attribute(entry, "user.k", b"v");
            })
            .file("replaced", ""),
        &[],
    );
    let middle = layer(
        Tar::new()
            .entry(Kind::Directory, "tmp/", |entry| {
                (entry.mode, entry.mtime.secs) = (0o1755, 5)
            })
            .dir("cut", 0o700)
            .whiteout("cut/.wh..wh..opq")
            .whiteout(".wh.replaced"),
        &[&bottom],
    );
    let top = layer(
        Tar::new()
            .file("tmp/sub/f", "")
            .file("cut/d/f", "")
            .file("replaced/f", "")
            .file("fresh/f", ""),
        &[&middle, &bottom],
    );
    assert!(top.unpacked.depends_on_below);
    let seen = top.seen();
    assert_eq!(seen[Path::new("tmp")], middle.seen()[Path::new("tmp")]);
    assert_eq!(seen[Path::new("tmp/sub")], bottom.seen()[Path::new("tmp/sub")]);
    assert_eq!(
        seen[Path::new("cut")],
        "40700 0:0 1700000000.123456789",
        "without the mark"
    );
    for unknown in ["cut/d", "replaced", "fresh"] {
        assert_eq!(seen[Path::new(unknown)], "40755 0:0 0.000000000");
    }
    // A layer that lists all its directories depends on nothing.
    let listed = layer(
        Tar::new().dir("usr", 0o755).file("usr/f", "").file("top", ""),
        &[&bottom],
    );
    assert!(!listed.unpacked.depends_on_below);
    // And one that lists them after what is in them, neither.
    let late = layer(Tar::new().file("usr/f", "").dir("usr", 0o711), &[&bottom]);
    assert!(!late.unpacked.depends_on_below);
    assert!(late.seen()[Path::new("usr")].starts_with("40711 "));
}

#[test]
fn attributes_of_the_overlay_are_escaped() {
    let tar = Tar::new()
        .entry(Kind::Directory, "d/", |entry| {
            entry.mode = 0o755;
            attribute(entry, "trusted.overlay.opaque", b"y");
            attribute(entry, "trusted.overlay.redirect", b"/etc");
            attribute(entry, "user.overlay.opaque", b"y");
        })
        .file_with("f", "", |entry| attribute(entry, "trusted.overlay.metacopy", b""))
        .file_with("g", "", |entry| {
            attribute(entry, "trusted.overlay.overlay.whiteout", b"y")
        });
    let layer = layer(tar, &[]);
    let names = |name: &str| xattrs(&layer.at(name)).into_keys().collect::<Vec<_>>();
    let expected = [
        "trusted.overlay.overlay.opaque",
        "trusted.overlay.overlay.redirect",
        "user.overlay.opaque",
    ];
    assert_eq!(names("d"), expected);
    assert_eq!(names("f"), ["trusted.overlay.overlay.metacopy"]);
    assert_eq!(names("g"), ["trusted.overlay.overlay.overlay.whiteout"]);
}

#[test]
fn sparse_files_keep_their_holes() {
    let tar = Tar::new()
        .sparse("s", 10 << 20, &[(1 << 20, &[1; 5000]), (8 << 20, b"end")])
        .sparse("hole", 1 << 40, &[])
        .sparse("full", 6, &[(0, b"abc"), (3, b"def")]);
    let layer = layer(tar, &[]);
    let data = fs::read(layer.at("s")).unwrap();
    assert_eq!(data.len(), 10 << 20);
    assert_eq!(&data[1 << 20..][..5000], [1; 5000]);
    assert_eq!(&data[8 << 20..][..4], b"end\0");
    assert_eq!(data.iter().filter(|byte| **byte != 0).count(), 5003);
    let blocks = |name: &str| fs::metadata(layer.at(name)).unwrap().blocks();
    assert!(blocks("s") <= 32 && blocks("hole") == 0);
    assert_eq!(fs::metadata(layer.at("hole")).unwrap().len(), 1 << 40);
    assert_eq!(fs::read(layer.at("full")).unwrap(), b"abcdef");
}

#[test]
fn symbolic_links_of_the_layer_are_followed_within_it() {
    let bottom = layer(
        Tar::new()
            .dir("usr", 0o711)
            .dir("usr/lib", 0o750)
            .symlink("lib", "usr/lib"),
        &[],
    );
    let tar = Tar::new()
        .symlink("bin", "usr/bin")
        .file("bin/tool", "")
        .symlink("abs", "/usr/share")
        .file("abs/doc", "")
        .dir("a", 0o755)
        .symlink("a/up", "../../../usr/../usr")
        .file("a/up/where", "")
        .link("linked", "abs/doc")
        .file("lib/hides", "");
    let top = layer(tar, &[&bottom]);
    for name in [
        "usr/bin/tool",
        "usr/share/doc",
        "usr/where",
        "linked",
        "lib/hides",
    ] {
        assert!(top.path().join(name).symlink_metadata().is_ok(), "{name}");
    }
    // One of a layer below is hidden by a directory.
    assert!(!top.at("lib").is_symlink() && !top.at("usr/lib").exists());
    assert!(top.seen()[Path::new("usr")].starts_with("40711 "));
}

#[test]
fn an_archive_unpacks_the_same_each_time() {
    let tar = Tar::new()
        .file("a/b/c", "x")
        .symlink("a/l", "b")
        .dir("d", 0o700)
        .end();
    let first = try_layer(&tar, &[]).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(first.seen(), try_layer(&tar, &[]).unwrap().seen());
}

#[test]
fn a_deep_tree() {
    let deep = "d/".repeat(1900);
    let tar = Tar::new()
        .file(format!("{deep}f"), "deep")
        .link("up", format!("{deep}f"))
        .file("d", "shallow");
    let layer = layer(tar, &[]);
    assert_eq!(fs::read_to_string(layer.at("up")).unwrap(), "deep");
    assert_eq!(fs::read_to_string(layer.at("d")).unwrap(), "shallow");
}
