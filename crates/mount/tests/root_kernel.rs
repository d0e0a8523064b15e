//! The kernel's driver against the kernel. Needs root: it mounts.

use std::fs;
use std::path::{Path, PathBuf};

use mount::{Mount, MountError, attach, detach, kernel, table};

/// A scratch directory whose mounts are gone when it is.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts file systems: run it as root"
        );
        Scratch(tempfile::tempdir().unwrap())
    }

    fn dir(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// `count` layers, each with a file named after its number; the topmost comes first.
    fn layers(&self, below: &str, count: usize) -> Vec<PathBuf> {
        let make = |number: usize| {
            let layer = self.dir(format!("{below}/{number}"));
            fs::write(layer.join(format!("f{number}")), "").unwrap();
            fs::write(layer.join("top"), number.to_string()).unwrap();
            layer
        };
        (0..count).rev().map(make).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for entry in table::read()
            .unwrap()
            .iter()
            .rev()
            .filter(|entry| entry.target.starts_with(self.0.path()))
        {
            let _ = detach(&entry.target);
        }
    }
}

fn overlay(lower: &[PathBuf], writable: Option<(&Path, &Path)>) -> Mount {
    let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
    Mount::overlay(&lower, writable, &[])
}

#[test]
fn many_layers_with_paths_beyond_one_page() {
    let scratch = Scratch::new();
    for count in [1, 2, 64, 500] {
        let long = "a-rather-long-directory-name".repeat(3);
        let lower = scratch.layers(&format!("{long}{count}"), count);
        let (upper, work) = (scratch.dir(format!("u{count}")), scratch.dir(format!("w{count}")));
        let target = scratch.dir(format!("m{count}"));
        attach(&overlay(&lower, Some((&upper, &work))), &target).unwrap();
        assert_eq!(
            fs::read_to_string(target.join("top")).unwrap(),
            (count - 1).to_string()
        );
        assert_eq!(fs::read_dir(&target).unwrap().count(), count + 1);
        fs::write(target.join("new"), "").unwrap();
        assert!(upper.join("new").exists());
        let entry = table::at(&target).unwrap().unwrap();
        assert_eq!(
            (entry.kind.as_str(), entry.super_option("upperdir")),
            ("overlay", Some(upper.as_os_str()))
        );
        assert!(kernel::upper_in_use(&upper).unwrap());
        let link = scratch.dir("links").join(format!("u{count}"));
        std::os::unix::fs::symlink(&upper, &link).unwrap();
        assert!(kernel::upper_in_use(&link).unwrap(), "by another name");
        assert!(detach(&target).unwrap());
        assert!(!kernel::upper_in_use(&upper).unwrap());
        assert!(!detach(&target).unwrap(), "detaching twice is no error");
    }
}

#[test]
fn a_layer_too_many_is_refused_by_number() {
    let scratch = Scratch::new();
    let lower = vec![scratch.dir("l"); 501];
    let error = attach(&overlay(&lower, None), &scratch.dir("m")).unwrap_err();
    assert!(matches!(error, MountError::TooManyLayers(501)), "{error}");
}

#[test]
fn the_kernels_words_reach_the_error() {
    let scratch = Scratch::new();
    let lower = vec![scratch.dir("l")];
    let mut mount = overlay(&lower, None);
    mount.options = vec![format!("lowerdir={}", scratch.0.path().join("missing").display())];
    let error = attach(&mount, &scratch.dir("m")).unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    mount.options = vec![format!("lowerdir={}", lower[0].display()), "nonsense=1".into()];
    let error = attach(&mount, &scratch.dir("m")).unwrap_err().to_string();
    assert!(
        error.contains("nonsense=1") && error.contains("kernel: "),
        "{error}"
    );
}

#[test]
fn odd_names_in_both_ways_of_mounting() {
    let scratch = Scratch::new();
    for (way, mount_by) in [
        ("new", attach as fn(&_, &_) -> _),
        ("old", kernel::attach_overlay_by_mount2),
    ] {
        let lower = vec![
            scratch.dir(format!("{way}/a:b,c\\d e")),
            scratch.dir(format!("{way}/x")),
        ];
        fs::write(lower[0].join("in-odd"), "").unwrap();
        let (upper, work) = (
            scratch.dir(format!("{way}/u:p,p\\er")),
            scratch.dir(format!("{way}/w:o,r\\k")),
        );
        let target = scratch.dir(format!("{way}/m, :\\"));
        mount_by(&overlay(&lower, Some((&upper, &work))), &target).unwrap();
        assert!(target.join("in-odd").exists(), "{way}");
        fs::write(target.join("new"), "").unwrap();
        assert!(upper.join("new").exists(), "{way}");
        assert!(table::at(&target).unwrap().is_some(), "{way}");
    }
}

#[test]
fn mount2_takes_many_layers_by_short_names() {
    let scratch = Scratch::new();
    let lower = scratch.layers("snapshots", 200);
    let target = scratch.dir("m");
    let before = std::env::current_dir().unwrap();
    kernel::attach_overlay_by_mount2(&overlay(&lower, None), &target).unwrap();
    assert_eq!(fs::read_dir(&target).unwrap().count(), 201);
    assert_eq!(std::env::current_dir().unwrap(), before);
    let lower = scratch.layers(&"d".repeat(120), 40);
    let apart: Vec<PathBuf> = lower
        .iter()
        .map(|l| scratch.dir(l.join("e".repeat(120))))
        .collect();
    let error = kernel::attach_overlay_by_mount2(&overlay(&apart, None), &scratch.dir("n")).unwrap_err();
    assert!(
        matches!(error, MountError::OptionsTooLong { layers: 40, .. }),
        "{error}"
    );
}

#[test]
fn a_long_path_goes_as_a_descriptor() {
    let scratch = Scratch::new();
    let deep = format!("{}/{}", "d".repeat(200), "e".repeat(200));
    let lower = vec![scratch.dir(&deep), scratch.dir("x")];
    fs::write(lower[0].join("deep"), "").unwrap();
    let target = scratch.dir("m");
    match attach(&overlay(&lower, None), &target) {
        Ok(()) => assert!(target.join("deep").exists()),
        // Before 6.13 the error must say which path, and why.
        Err(error) => assert!(error.to_string().contains("needs Linux 6.13"), "{error}"),
    }
}

/// The mount table shows names as they were given: a relative one may be anybody's, and is believed where it leads to what
/// the mount shows.
#[test]
fn an_upper_directory_in_use_by_a_relative_name() {
    let scratch = Scratch::new();
    let (theirs, ours) = (scratch.dir("theirs"), scratch.dir("ours"));
    for place in [&theirs, &ours] {
        for name in ["low", "up", "work", "mnt"] {
            scratch.dir(place.join(name));
        }
    }
    let in_use = |place: &Path| {
        std::env::set_current_dir(place).unwrap();
        ["up", "work"].map(|name| kernel::upper_in_use(&place.join(name)).unwrap())
    };
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            // The other tests stay where they are.
            sys::process::unshare_directories().unwrap();
            std::env::set_current_dir(&theirs).unwrap();
            let options = c"lowerdir=low,upperdir=up,workdir=work";
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("overlay", "mnt", "overlay", flags, options).unwrap();
            assert_eq!(in_use(&ours), [false, false]);
            assert_eq!(in_use(&theirs), [true, true]);
            assert!(detach(&theirs.join("mnt")).unwrap());
            assert_eq!(in_use(&theirs), [false, false]);
        });
        looks.join().unwrap();
    });
}

/// A server holds its lock a moment longer than its mount is there; who mounts again at once need not know of that.
#[test]
fn a_lock_that_goes_is_waited_for() {
    let scratch = Scratch::new();
    let lower = vec![scratch.dir("l")];
    let (upper, work, target) = (scratch.dir("u"), scratch.dir("w"), scratch.dir("m"));
    let mount = overlay(&lower, Some((&upper, &work)));
    let lock = fs::File::open(&upper).unwrap();
    lock.lock().unwrap();
    let error = attach(&mount, &target).unwrap_err();
    assert!(
        matches!(&error, MountError::InUse(path) if *path == upper),
        "{error}"
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            lock.unlock().unwrap();
        });
        attach(&mount, &target).unwrap();
    });
}

#[test]
fn binds_and_others() {
    let scratch = Scratch::new();
    let source = scratch.dir("s");
    fs::write(source.join("f"), "x").unwrap();
    let target = scratch.dir("m");
    attach(&Mount::bind(&source, true), &target).unwrap();
    assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "x");
    assert_eq!(
        fs::write(target.join("f"), "y").unwrap_err().kind(),
        std::io::ErrorKind::ReadOnlyFilesystem
    );
    assert!(detach(&target).unwrap());
    let tmpfs = Mount {
        kind: "tmpfs".into(),
        source: "scratch".into(),
        options: vec!["size=64k".into(), "nodev".into(), "mode=700".into()],
    };
    attach(&tmpfs, &target).unwrap();
    let entry = table::at(&target).unwrap().unwrap();
    assert!(entry.kind == "tmpfs" && entry.options.contains("nodev") && entry.source == "scratch");
    attach(&tmpfs, &target).unwrap();
    assert!(
        detach(&target).unwrap() && table::at(&target).unwrap().is_none(),
        "stacked mounts all go"
    );
    let error = attach(
        &Mount {
            options: vec!["bnd".into()],
            ..Mount::bind(&source, false)
        },
        &target,
    )
    .unwrap_err();
    assert!(matches!(error, MountError::UnknownOption(option) if option == "bnd"));
    let error = attach(&Mount::bind(&source.join("missing"), false), &target)
        .unwrap_err()
        .to_string();
    assert!(error.contains("missing"), "{error}");
}
