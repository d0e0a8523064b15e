//! The contract of a snapshotter, as cases that any implementation must pass: the store called directly, and the
//! store behind a service.
//!
//! The cases are those that containerd documents (`core/snapshots/snapshotter.go`) and more. [`contract`] mounts
//! nothing and needs no privilege; [`mounted_contract`] looks at the result through the kernel's overlay, as root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mount::Mount;
use mount::overlay::Overlay;
use store::{Info, Kind, Labels, SnapshotError, Usage};

/// A snapshotter under test, of one namespace that is empty.
pub trait Snapshotter {
    /// Makes an active snapshot.
    fn prepare(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError>;
    /// Makes a view.
    fn view(&self, key: &str, parent: Option<&str>, labels: &Labels) -> Result<Vec<Mount>, SnapshotError>;
    /// Tells the mounts again.
    fn mounts(&self, key: &str) -> Result<Vec<Mount>, SnapshotError>;
    /// Commits, on another parent if one is given.
    fn commit(
        &self,
        name: &str,
        key: &str,
        labels: &Labels,
        parent: Option<&str>,
    ) -> Result<(), SnapshotError>;
    /// Removes.
    fn remove(&self, key: &str) -> Result<(), SnapshotError>;
    /// What is known.
    fn stat(&self, key: &str) -> Result<Info, SnapshotError>;
    /// Changes labels by a field mask.
    fn update(&self, key: &str, labels: &Labels, fields: &[&str]) -> Result<Info, SnapshotError>;
    /// Calls `visit` for every snapshot.
    fn walk(&self, visit: &mut dyn FnMut(Info)) -> Result<(), SnapshotError>;
    /// What one takes, without its parents.
    fn usage(&self, key: &str) -> Result<Usage, SnapshotError>;
    /// Frees what is left of those that were removed.
    fn cleanup(&self) -> Result<(), SnapshotError>;
}

/// One rule, on an empty snapshotter.
type Case = fn(&dyn Snapshotter);

/// Runs every case that needs no mount, each on a snapshotter of its own. Panics with the names of those that fail.
pub fn contract(make: &dyn Fn() -> Box<dyn Snapshotter>) {
    run(
        &[
            ("basic", basic),
            ("kinds and times", kinds_and_times),
            ("one key space", one_key_space),
            ("parents", parents),
            ("commit", commit),
            ("commit replaces labels and time", commit_replaces),
            ("rebase", rebase),
            ("mounts", mounts),
            ("mounts of many layers", many_layers),
            ("remove", remove),
            ("update", update),
            ("labels", labels_are_bounded),
            ("walk", walk),
            ("usage", usage),
            ("root directory", root_directory),
        ],
        make,
    );
}

/// As [`contract`], with the cases that mount what is answered.
pub fn mounted_contract(make: &dyn Fn() -> Box<dyn Snapshotter>) {
    run(
        &[
            ("an updated file", updated_file),
            ("deleted files stay deleted", deleted_files),
            ("a lower directory removed and made again", removed_directory),
            ("owners and modes", owners_and_modes),
            ("files moved from below", moved_files),
            ("a view is read-only", read_only_view),
            ("a layer prepared without its parent", rebased_layer),
            ("128 layers", mounted_layers),
        ],
        make,
    );
}

fn run(cases: &[(&str, Case)], make: &dyn Fn() -> Box<dyn Snapshotter>) {
    let failed: Vec<&str> = cases
        .iter()
        .filter(|(_, case)| catch_unwind(AssertUnwindSafe(|| case(&*make()))).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

fn none() -> Labels {
    Labels::new()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// A committed snapshot that holds one file of its own name.
fn committed(s: &dyn Snapshotter, name: &str, parent: Option<&str>) {
    let key = format!("{name}-active");
    let mounts = s.prepare(&key, parent, &none()).unwrap();
    fs::write(upper(&mounts).join(name), name).unwrap();
    s.commit(name, &key, &none(), None).unwrap();
}

/// Where writing to the mount ends up.
fn upper(mounts: &[Mount]) -> PathBuf {
    assert_eq!(mounts.len(), 1);
    match mounts[0].kind.as_str() {
        "bind" => PathBuf::from(&mounts[0].source),
        _ => Overlay::parse(&mounts[0].options).writable.unwrap().0,
    }
}

fn not_found<T: std::fmt::Debug>(result: Result<T, SnapshotError>) {
    assert!(matches!(result, Err(SnapshotError::NotFound(_))), "{result:?}");
}

fn exists<T: std::fmt::Debug>(result: Result<T, SnapshotError>) {
    assert!(
        matches!(result, Err(SnapshotError::AlreadyExists(_))),
        "{result:?}"
    );
}

fn invalid<T: std::fmt::Debug>(result: Result<T, SnapshotError>) {
    assert!(
        matches!(result, Err(SnapshotError::InvalidArgument { .. })),
        "{result:?}"
    );
}

fn precondition<T: std::fmt::Debug>(result: Result<T, SnapshotError>) -> String {
    match result {
        Err(error @ SnapshotError::FailedPrecondition { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

fn basic(s: &dyn Snapshotter) {
    let base = s.prepare("extract", None, &none()).unwrap();
    fs::write(upper(&base).join("foo"), "foo").unwrap();
    s.commit("base", "extract", &none(), None).unwrap();
    not_found(s.stat("extract"));

    let next = s.prepare("next", Some("base"), &none()).unwrap();
    let lower = Overlay::parse(&next[0].options).lower;
    assert_eq!(lower, [upper(&base)]);
    assert_eq!(fs::read_to_string(lower[0].join("foo")).unwrap(), "foo");
    fs::write(upper(&next).join("bar"), "bar").unwrap();
    s.commit("two", "next", &none(), None).unwrap();

    let run = s.prepare("run", Some("two"), &none()).unwrap();
    assert_eq!(
        Overlay::parse(&run[0].options).lower,
        [upper(&next), upper(&base)]
    );
    for key in ["run", "two", "base"] {
        s.remove(key).unwrap();
    }
    s.cleanup().unwrap();
    for gone in [base, next, run] {
        assert!(!upper(&gone).exists());
    }
}

fn kinds_and_times(s: &dyn Snapshotter) {
    committed(s, "base", None);
    s.prepare("active", Some("base"), &labels(&[("a", "1")])).unwrap();
    s.view("view", Some("base"), &none()).unwrap();
    for (key, kind, parent) in [
        ("base", Kind::Committed, None),
        ("active", Kind::Active, Some("base")),
        ("view", Kind::View, Some("base")),
    ] {
        let info = s.stat(key).unwrap();
        assert_eq!(
            (info.key.as_str(), info.kind, info.parent.as_deref()),
            (key, kind, parent)
        );
        assert_eq!(info.created, info.updated);
        assert!(info.created.as_second() > 1_500_000_000);
    }
    assert_eq!(s.stat("active").unwrap().labels, labels(&[("a", "1")]));
}

fn one_key_space(s: &dyn Snapshotter) {
    committed(s, "base", None);
    s.prepare("active", None, &none()).unwrap();
    s.view("view", None, &none()).unwrap();
    for key in ["base", "active", "view"] {
        exists(s.prepare(key, None, &none()));
        exists(s.prepare(key, Some("base"), &none()));
        exists(s.view(key, Some("base"), &none()));
        exists(s.commit(key, "active", &none(), None));
    }
    invalid(s.prepare("", None, &none()));
    invalid(s.commit("", "active", &none(), None));
    s.commit("new", "active", &none(), None).unwrap();
    s.prepare("active", None, &none()).unwrap();
}

fn parents(s: &dyn Snapshotter) {
    not_found(s.prepare("x", Some("nobody"), &none()));
    not_found(s.view("x", Some("nobody"), &none()));
    s.prepare("active", None, &none()).unwrap();
    s.view("view", None, &none()).unwrap();
    for parent in ["active", "view"] {
        invalid(s.prepare("x", Some(parent), &none()));
        invalid(s.view("x", Some(parent), &none()));
    }
    not_found(s.stat("x"));
}

fn commit(s: &dyn Snapshotter) {
    not_found(s.commit("name", "nobody", &none(), None));
    committed(s, "base", None);
    precondition(s.commit("name", "base", &none(), None));
    s.view("view", Some("base"), &none()).unwrap();
    precondition(s.commit("name", "view", &none(), None));
    s.view("bare", None, &none()).unwrap();
    precondition(s.commit("name", "bare", &none(), None));
    not_found(s.stat("name"));
}

fn commit_replaces(s: &dyn Snapshotter) {
    s.prepare("active", None, &labels(&[("old", "1")])).unwrap();
    let before = s.stat("active").unwrap();
    s.commit("name", "active", &labels(&[("new", "2")]), None)
        .unwrap();
    let after = s.stat("name").unwrap();
    assert_eq!(after.labels, labels(&[("new", "2")]));
    assert_eq!(after.created, after.updated);
    assert!(after.created > before.created);
}

fn rebase(s: &dyn Snapshotter) {
    committed(s, "base", None);
    committed(s, "other", None);
    s.prepare("active", None, &none()).unwrap();
    s.prepare("layer", None, &none()).unwrap();
    not_found(s.commit("name", "layer", &none(), Some("nobody")));
    precondition(s.commit("name", "layer", &none(), Some("active")));
    s.commit("name", "layer", &none(), Some("base")).unwrap();
    assert_eq!(s.stat("name").unwrap().parent.as_deref(), Some("base"));
    let mounts = s.prepare("top", Some("name"), &none()).unwrap();
    assert_eq!(Overlay::parse(&mounts[0].options).lower.len(), 2);
    // A parent that is there is not changed, but may be said.
    invalid(s.commit("x", "top", &none(), Some("other")));
    s.commit("x", "top", &none(), Some("name")).unwrap();
    assert_eq!(s.stat("x").unwrap().parent.as_deref(), Some("name"));
}

fn mounts(s: &dyn Snapshotter) {
    let bare = s.prepare("bare", None, &none()).unwrap();
    assert_eq!(
        (bare[0].kind.as_str(), &bare[0].options[..]),
        ("bind", &["rw".into(), "rbind".into()][..])
    );
    let look = s.view("look", None, &none()).unwrap();
    assert_eq!(
        (look[0].kind.as_str(), &look[0].options[..]),
        ("bind", &["ro".into(), "rbind".into()][..])
    );
    committed(s, "base", None);
    committed(s, "two", Some("base"));
    let active = s.prepare("active", Some("base"), &none()).unwrap();
    assert_eq!(
        (active[0].kind.as_str(), active[0].source.as_str()),
        ("overlay", "overlay")
    );
    let order: Vec<&str> = active[0]
        .options
        .iter()
        .map(|o| o.split('=').next().unwrap())
        .collect();
    assert_eq!(order, ["workdir", "upperdir", "lowerdir", "index"]);
    let one = s.view("one", Some("base"), &none()).unwrap();
    assert_eq!(
        (one[0].kind.as_str(), &one[0].options[..]),
        ("bind", &["ro".into(), "rbind".into()][..])
    );
    let both = s.view("both", Some("two"), &none()).unwrap();
    assert_eq!(both[0].kind, "overlay");
    let overlay = Overlay::parse(&both[0].options);
    assert_eq!((overlay.lower.len(), overlay.writable), (2, None));
    assert_eq!(overlay.lower[1].to_str().unwrap(), one[0].source);

    for (key, told) in [
        ("bare", bare),
        ("look", look),
        ("active", active),
        ("one", one),
        ("both", both),
    ] {
        assert_eq!(s.mounts(key).unwrap(), told, "{key}");
    }
    precondition(s.mounts("base"));
    not_found(s.mounts("nobody"));
}

fn many_layers(s: &dyn Snapshotter) {
    let mut parent: Option<String> = None;
    for n in 0..128 {
        let name = format!("layer{n}");
        committed(s, &name, parent.as_deref());
        parent = Some(name);
    }
    let mounts = s.prepare("run", parent.as_deref(), &none()).unwrap();
    let lower = Overlay::parse(&mounts[0].options).lower;
    assert_eq!(lower.len(), 128);
    assert!(lower[0].join("layer127").exists() && lower[127].join("layer0").exists());
}

fn remove(s: &dyn Snapshotter) {
    not_found(s.remove("nobody"));
    committed(s, "base", None);
    committed(s, "two", Some("base"));
    s.prepare("active", Some("two"), &none()).unwrap();
    s.view("view", Some("base"), &none()).unwrap();
    for key in ["base", "two"] {
        let text = precondition(s.remove(key));
        assert!(text.contains("remove"), "containerd looks for the word: {text}");
    }
    for key in ["active", "two", "view", "base"] {
        s.remove(key).unwrap();
        not_found(s.stat(key));
        not_found(s.remove(key));
    }
    committed(s, "base", None);
}

fn update(s: &dyn Snapshotter) {
    s.prepare("key", None, &labels(&[("a", "1"), ("b", "2")]))
        .unwrap();
    let before = s.stat("key").unwrap();
    let one = s
        .update(
            "key",
            &labels(&[("b", "3"), ("c", "not asked for")]),
            &["labels.b"],
        )
        .unwrap();
    assert_eq!(one.labels, labels(&[("a", "1"), ("b", "3")]));
    assert_eq!(one.created, before.created);
    assert!(one.updated > before.updated);
    assert_eq!(s.stat("key").unwrap(), one);
    let deleted = s.update("key", &labels(&[("a", "")]), &["labels.a"]).unwrap();
    assert_eq!(deleted.labels, labels(&[("b", "3")]));
    let absent = s.update("key", &none(), &["labels.b"]).unwrap();
    assert_eq!(absent.labels, none());
    for fields in [&["labels"][..], &[]] {
        let all = s
            .update("key", &labels(&[("x", "1"), ("empty", "")]), fields)
            .unwrap();
        assert_eq!(all.labels, labels(&[("x", "1")]));
    }
    for field in ["parent", "kind", "name", "created_at", "label"] {
        invalid(s.update("key", &none(), &[field]));
    }
    not_found(s.update("nobody", &none(), &[]));
    committed(s, "base", None);
    assert_eq!(
        s.update("base", &labels(&[("a", "b")]), &[]).unwrap().labels,
        labels(&[("a", "b")])
    );
}

fn labels_are_bounded(s: &dyn Snapshotter) {
    let fits = labels(&[("abc", &"x".repeat(4093))]);
    let not = labels(&[("abc", &"x".repeat(4094))]);
    s.prepare("key", None, &fits).unwrap();
    assert_eq!(s.stat("key").unwrap().labels, fits);
    invalid(s.prepare("other", None, &not));
    invalid(s.view("other", None, &not));
    invalid(s.commit("other", "key", &not, None));
    invalid(s.update("key", &not, &[]));
}

fn walk(s: &dyn Snapshotter) {
    s.walk(&mut |info| panic!("{info:?}")).unwrap();
    let mut keys: Vec<String> = (0..120).map(|n| format!("key {n}")).collect();
    for key in &keys {
        s.prepare(key, None, &none()).unwrap();
    }
    let mut seen = Vec::new();
    s.walk(&mut |info| {
        // The walk holds nothing that asking would need.
        assert_eq!(s.stat(&info.key).unwrap(), info);
        seen.push(info.key);
    })
    .unwrap();
    seen.sort();
    keys.sort();
    assert_eq!(seen, keys);
}

fn usage(s: &dyn Snapshotter) {
    let mounts = s.prepare("active", None, &none()).unwrap();
    let empty = s.usage("active").unwrap();
    fs::write(upper(&mounts).join("big"), vec![1; 1 << 20]).unwrap();
    let filled = s.usage("active").unwrap();
    assert_eq!(filled.inodes, empty.inodes + 1);
    assert!(filled.bytes >= empty.bytes + (1 << 20));
    s.commit("base", "active", &none(), None).unwrap();
    assert_eq!(s.usage("base").unwrap(), filled);
    s.prepare("next", Some("base"), &none()).unwrap();
    assert_eq!(s.usage("next").unwrap(), empty);
    s.view("view", Some("base"), &none()).unwrap();
    assert_eq!(s.usage("view").unwrap().bytes, 0);
    not_found(s.usage("nobody"));
}

fn root_directory(s: &dyn Snapshotter) {
    let root = upper(&s.prepare("a", None, &none()).unwrap());
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o755);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o1777)).unwrap();
    s.commit("base", "a", &none(), None).unwrap();
    // What a container sees as `/` is the upper directory: it looks like the one below.
    let root = upper(&s.prepare("b", Some("base"), &none()).unwrap());
    assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o1777);
}

/// Prepares, mounts, lets `work` work, unmounts, commits.
fn layer(s: &dyn Snapshotter, name: &str, parent: Option<&str>, work: impl FnOnce(&Path)) {
    let mounts = s.prepare("work", parent, &none()).unwrap();
    within(&mounts, work);
    s.commit(name, "work", &none(), None).unwrap();
}

/// Lets `work` work on what is mounted, and unmounts it.
fn within(mounts: &[Mount], work: impl FnOnce(&Path)) {
    let target = tempfile::tempdir().unwrap();
    mount::attach(&mounts[0], target.path()).expect("mounting needs root");
    let result = catch_unwind(AssertUnwindSafe(|| work(target.path())));
    mount::detach(target.path()).unwrap();
    result.unwrap();
}

/// Looks at a committed snapshot through a view.
fn look(s: &dyn Snapshotter, name: &str, work: impl FnOnce(&Path)) {
    within(&s.view("look", Some(name), &none()).unwrap(), work);
    s.remove("look").unwrap();
}

fn updated_file(s: &dyn Snapshotter) {
    layer(s, "one", None, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/hosts"), "one").unwrap();
        fs::write(root.join("etc/other"), "other").unwrap();
    });
    layer(s, "two", Some("one"), |root| {
        fs::write(root.join("etc/hosts"), "two").unwrap()
    });
    look(s, "two", |root| {
        assert_eq!(fs::read_to_string(root.join("etc/hosts")).unwrap(), "two");
        assert_eq!(fs::read_to_string(root.join("etc/other")).unwrap(), "other");
    });
    look(s, "one", |root| {
        assert_eq!(fs::read_to_string(root.join("etc/hosts")).unwrap(), "one")
    });
}

fn deleted_files(s: &dyn Snapshotter) {
    layer(s, "one", None, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        for name in ["a", "dir/b", "dir/c"] {
            fs::write(root.join(name), "").unwrap();
        }
    });
    layer(s, "two", Some("one"), |root| {
        fs::remove_file(root.join("a")).unwrap();
        fs::remove_file(root.join("dir/b")).unwrap();
    });
    layer(s, "three", Some("two"), |root| {
        fs::write(root.join("x"), "").unwrap()
    });
    look(s, "three", |root| {
        let there = ["a", "dir/b", "dir/c", "x"].map(|name| root.join(name).exists());
        assert_eq!(there, [false, false, true, true]);
    });
}

fn removed_directory(s: &dyn Snapshotter) {
    layer(s, "one", None, |root| {
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/sub/old"), "").unwrap();
    });
    layer(s, "two", Some("one"), |root| {
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/new"), "").unwrap();
    });
    look(s, "two", |root| {
        let names: Vec<_> = fs::read_dir(root.join("dir"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["new"]);
    });
}

fn owners_and_modes(s: &dyn Snapshotter) {
    layer(s, "one", None, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    layer(s, "two", Some("one"), |root| {
        std::os::unix::fs::chown(root.join("file"), Some(1), Some(2)).unwrap();
        fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o2777)).unwrap();
        std::os::unix::fs::chown(root, Some(3), Some(4)).unwrap();
    });
    layer(s, "three", Some("two"), |root| {
        fs::write(root.join("x"), "").unwrap()
    });
    look(s, "three", |root| {
        let of = |name: &str| {
            let status = fs::metadata(root.join(name)).unwrap();
            (status.uid(), status.gid(), status.mode() & 0o7777)
        };
        assert_eq!(of("file"), (1, 2, 0o4755));
        assert_eq!(of("dir"), (0, 0, 0o2777));
        assert_eq!(of("."), (3, 4, 0o755));
    });
}

fn moved_files(s: &dyn Snapshotter) {
    layer(s, "one", None, |root| {
        fs::create_dir(root.join("from")).unwrap();
        fs::write(root.join("from/a"), "a").unwrap();
        fs::write(root.join("b"), "b").unwrap();
    });
    layer(s, "two", Some("one"), |root| {
        fs::create_dir(root.join("to")).unwrap();
        fs::rename(root.join("from/a"), root.join("to/a")).unwrap();
        fs::rename(root.join("b"), root.join("from/b")).unwrap();
    });
    look(s, "two", |root| {
        assert_eq!(fs::read_to_string(root.join("to/a")).unwrap(), "a");
        assert_eq!(fs::read_to_string(root.join("from/b")).unwrap(), "b");
        assert!(!root.join("from/a").exists() && !root.join("b").exists());
    });
}

fn read_only_view(s: &dyn Snapshotter) {
    layer(s, "one", None, |root| fs::write(root.join("a"), "").unwrap());
    layer(s, "two", Some("one"), |root| {
        fs::write(root.join("b"), "").unwrap()
    });
    for name in ["one", "two"] {
        look(s, name, |root| {
            let error = fs::write(root.join("a"), "x").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
    }
}

fn rebased_layer(s: &dyn Snapshotter) {
    layer(s, "one", None, |root| fs::write(root.join("a"), "one").unwrap());
    let mounts = s.prepare("layer", None, &none()).unwrap();
    within(&mounts, |root| fs::write(root.join("b"), "two").unwrap());
    s.commit("two", "layer", &none(), Some("one")).unwrap();
    look(s, "two", |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "one");
        assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "two");
    });
}

fn mounted_layers(s: &dyn Snapshotter) {
    let mut parent: Option<String> = None;
    for n in 0..128 {
        let name = format!("layer{n}");
        committed(s, &name, parent.as_deref());
        parent = Some(name);
    }
    let mounts = s.prepare("run", parent.as_deref(), &none()).unwrap();
    within(&mounts, |root| {
        assert_eq!(fs::read_dir(root).unwrap().count(), 128);
        fs::remove_file(root.join("layer0")).unwrap();
        assert_eq!(fs::read_dir(root).unwrap().count(), 127);
    });
}
