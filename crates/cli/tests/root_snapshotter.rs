//! `strata serve snapshotter`: the contract of a snapshotter over gRPC. What only a server has is in
//! `root_snapshotter_server.rs`, the other driver in `root_snapshotter_fuse.rs`.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use grpc::Code;
use mount::Mount;
use mount::overlay::Overlay;
use snapshotter::wire;
use store::{Info, Kind, Labels, REF, SnapshotError};
use testkit::Strata;
use testkit::snapshots::{Remote, Served};
use testkit::snapshotter::{Snapshotter, contract, mounted_contract};

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn upper(mounts: &[Mount]) -> PathBuf {
    match mounts[0].kind.as_str() {
        "bind" => PathBuf::from(&mounts[0].source),
        _ => Overlay::parse(&mounts[0].options).writable.unwrap().0,
    }
}

fn keys(remote: &Remote, filters: &[&str]) -> Vec<String> {
    let infos = remote.list(filters).unwrap();
    infos.into_iter().map(|info| info.key).collect()
}

#[test]
fn the_contract_holds_over_grpc() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, &[]);
    let next = Cell::new(0);
    let make = || -> Box<dyn Snapshotter> {
        next.set(next.get() + 1);
        Box::new(served.client(&format!("ns-{}", next.get())))
    };
    contract(&make);
    mounted_contract(&make);
}

#[test]
fn every_refusal_has_its_code_and_names_the_snapshot() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, &[]);
    let remote = served.client("k8s.io");
    remote.prepare("active", None, &labels(&[])).unwrap();
    remote.prepare("work", None, &labels(&[])).unwrap();
    remote.commit("base", "work", &labels(&[]), None).unwrap();
    remote.prepare("child", Some("base"), &labels(&[])).unwrap();
    remote.view("view", Some("base"), &labels(&[])).unwrap();
    let key = |key: &str| wire::KeyRequest {
        key: key.into(),
        ..wire::KeyRequest::default()
    };
    let prepare = |key: &str, parent: &str| wire::PrepareRequest {
        key: key.into(),
        parent: parent.into(),
        ..wire::PrepareRequest::default()
    };
    let commit = |name: &str, key: &str, parent: &str| wire::CommitRequest {
        name: name.into(),
        key: key.into(),
        parent: parent.into(),
        ..wire::CommitRequest::default()
    };
    let update = |name: &str, path: &str| wire::UpdateRequest {
        info: Some(wire::Info {
            name: name.into(),
            ..wire::Info::default()
        }),
        update_mask: Some(wire::FieldMask {
            paths: vec![path.into()],
        }),
        ..wire::UpdateRequest::default()
    };
    for (status, code, word) in [
        (
            remote.status("Prepare", &prepare("active", "")),
            Code::AlreadyExists,
            "active",
        ),
        (
            remote.status("View", &prepare("base", "")),
            Code::AlreadyExists,
            "base",
        ),
        (
            remote.status("Prepare", &prepare("new", "nobody")),
            Code::NotFound,
            "nobody",
        ),
        (
            remote.status("Prepare", &prepare("new", "active")),
            Code::InvalidArgument,
            "active",
        ),
        (
            remote.status("Prepare", &prepare("", "")),
            Code::InvalidArgument,
            "empty",
        ),
        (
            remote.status("Mounts", &key("base")),
            Code::FailedPrecondition,
            "base",
        ),
        (remote.status("Mounts", &key("nobody")), Code::NotFound, "nobody"),
        (
            remote.status("Commit", &commit("base", "active", "")),
            Code::AlreadyExists,
            "base",
        ),
        (
            remote.status("Commit", &commit("new", "nobody", "")),
            Code::NotFound,
            "nobody",
        ),
        (
            remote.status("Commit", &commit("new", "view", "")),
            Code::FailedPrecondition,
            "view",
        ),
        (
            remote.status("Commit", &commit("new", "active", "child")),
            Code::FailedPrecondition,
            "child",
        ),
        (
            remote.status("Commit", &commit("new", "active", "nobody")),
            Code::NotFound,
            "nobody",
        ),
        (
            remote.status("Remove", &key("base")),
            Code::FailedPrecondition,
            "remove",
        ),
        (remote.status("Remove", &key("nobody")), Code::NotFound, "nobody"),
        (remote.status("Stat", &key("nobody")), Code::NotFound, "nobody"),
        (remote.status("Usage", &key("nobody")), Code::NotFound, "nobody"),
        (
            remote.status("Update", &update("base", "parent")),
            Code::InvalidArgument,
            "parent",
        ),
        (
            remote.status("Update", &update("nobody", "labels")),
            Code::NotFound,
            "nobody",
        ),
        (
            remote.status("Update", &wire::UpdateRequest::default()),
            Code::InvalidArgument,
            "names no snapshot",
        ),
        (remote.status("Fetch", &key("base")), Code::Unimplemented, "Fetch"),
    ] {
        assert_eq!(status.code, code, "{status}");
        assert!(status.message.contains(word), "{word}: {status}");
    }
    let list = wire::ListRequest {
        filters: vec!["name=".into()],
        ..wire::ListRequest::default()
    };
    assert_eq!(remote.status("List", &list).code, Code::InvalidArgument);
    let foul = Remote::new(&served.socket, "../etc");
    assert_eq!(foul.status("Stat", &key("base")).code, Code::InvalidArgument);
    remote.cleanup().unwrap();
}

#[test]
fn namespaces_lie_beside_each_other_and_a_collector_sees_all_of_them() {
    let strata = Strata::with_busybox(PROGRAM);
    strata.ok(["create", "--name", "ours", "busybox", "true"]);
    let served = Served::start(&strata, &[]);
    let (k8s, moby, none) = (served.client("k8s.io"), served.client("moby"), served.client(""));
    for remote in [&k8s, &moby] {
        remote.prepare("same", None, &labels(&[])).unwrap();
    }
    k8s.prepare("k8s.io/1/a", None, &labels(&[])).unwrap();
    moby.prepare("moby/7/b", None, &labels(&[])).unwrap();
    assert_eq!(keys(&k8s, &[]), ["k8s.io/1/a", "same"]);
    assert_eq!(keys(&moby, &[]), ["moby/7/b", "same"]);
    // containerd's collector names no namespace. Of what strata holds for images and containers of its own, it must
    // not hear, or it would take that for garbage.
    assert_eq!(keys(&none, &[]), ["k8s.io/1/a", "same", "moby/7/b", "same"]);
    assert_eq!(keys(&served.client("default"), &[]), [""; 0]);
    assert_eq!(none.stat("moby/7/b").unwrap().kind, Kind::Active);
    none.remove("moby/7/b").unwrap();
    assert_eq!(keys(&moby, &[]), ["same"]);
    none.remove("same").unwrap();
    assert_eq!(keys(&none, &[]), ["k8s.io/1/a", "same"]);
    none.cleanup().unwrap();
    let image = strata.ok(["inspect", "busybox", "--format", "{{.RootFS.Layers}}"]);
    let chain = image.trim().trim_matches(['[', ']', '"']).to_owned();
    let own = wire::KeyRequest {
        key: chain,
        ..wire::KeyRequest::default()
    };
    assert_eq!(
        served.client("default").status("Remove", &own).code,
        Code::FailedPrecondition
    );
    strata.ok(["start", "ours"]);
    strata.ok(["wait", "ours"]);
    strata.ok(["rm", "ours"]);
}

#[test]
fn a_long_listing_comes_in_pages_and_filtered() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, &[]);
    let remote = served.client("k8s.io");
    for n in 0..250 {
        let even = if n % 2 == 0 { "yes" } else { "no" };
        let labels = labels(&[("containerd.io/snapshot/even", even)]);
        remote.prepare(&format!("k8s.io/{n}/x"), None, &labels).unwrap();
    }
    remote
        .commit("k8s.io/250/y", "k8s.io/0/x", &labels(&[]), None)
        .unwrap();
    let pages = remote.call("List", &wire::ListRequest::default()).unwrap();
    assert_eq!(pages.len(), 3);
    assert_eq!(keys(&remote, &[]).len(), 250);
    let nanoseconds = |info: &Info| info.created.subsec_nanosecond() % 1000 != 0;
    assert!(
        remote
            .list(&[])
            .unwrap()
            .iter()
            .filter(|info| nanoseconds(info))
            .count()
            > 200
    );
    assert_eq!(
        keys(&remote, &["labels.\"containerd.io/snapshot/even\"==yes"]).len(),
        124
    );
    assert_eq!(keys(&remote, &["kind==committed"]), ["k8s.io/250/y"]);
    assert_eq!(
        keys(
            &remote,
            &["kind==active,name~=/^k8s.io\\/1\\/x$/", "kind==committed"]
        ),
        ["k8s.io/1/x", "k8s.io/250/y"]
    );
}

/// What containerd 2.2 does with `rebase` and `max_concurrent_unpacks`: all layers are prepared at once, each by a caller of its
/// own, on nothing and with the name that it is to have; each is mounted and filled, with whiteouts and marks written by
/// containerd itself where it sees an overlay; then each is committed onto the one below, in order.
#[test]
fn layers_that_are_unpacked_beside_each_other_are_one_image() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, &[]);
    type Fill = fn(&Path, &Path);
    let fill: [Fill; 4] = [
        |root, _| {
            for dir in ["opaque", "replaced", "kept"] {
                fs::create_dir(root.join(dir)).unwrap();
                fs::write(root.join(dir).join("old"), "1").unwrap();
            }
            fs::write(root.join("deleted"), "1").unwrap();
            fs::write(root.join("changed"), "1").unwrap();
        },
        |root, upper| {
            whiteout(&upper.join("deleted"));
            whiteout(&upper.join("replaced"));
            fs::create_dir(root.join("opaque")).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(upper.join("opaque"), "trusted.overlay.opaque", b"y", flags).unwrap();
            fs::write(root.join("opaque/new"), "2").unwrap();
            fs::write(root.join("changed"), "2").unwrap();
        },
        |root, upper| {
            fs::create_dir(root.join("kept")).unwrap();
            fs::write(root.join("kept/new"), "3").unwrap();
            whiteout(&upper.join("changed"));
        },
        |root, _| {
            fs::write(root.join("changed"), "4").unwrap();
            fs::write(root.join("replaced"), "4").unwrap();
        },
    ];
    let key = |n: usize| format!("k8s.io/{n}/extract-{n} sha256:{n}");
    let name = |n: usize| format!("k8s.io/{}/sha256:{n}", n + 10);
    // None is committed before all are prepared.
    let prepared = std::sync::Barrier::new(fill.len());
    std::thread::scope(|scope| {
        for (n, fill) in fill.iter().enumerate() {
            let (prepared, served) = (&prepared, &served);
            scope.spawn(move || {
                let remote = served.client("k8s.io");
                let apart = labels(&[(REF, &format!("sha256:{n}"))]);
                let mounts = remote.prepare(&key(n), None, &apart).unwrap();
                assert_eq!(mounts[0].kind, "overlay", "{mounts:?}");
                assert_eq!(mounts, remote.mounts(&key(n)).unwrap());
                let overlay = Overlay::parse(&mounts[0].options);
                assert_eq!(fs::read_dir(&overlay.lower[0]).unwrap().count(), 0);
                prepared.wait();
                let target = tempfile::tempdir().unwrap();
                mount::attach(&mounts[0], target.path()).unwrap();
                fill(target.path(), &overlay.writable.unwrap().0);
                mount::detach(target.path()).unwrap();
            });
        }
    });
    let remote = served.client("k8s.io");
    let mut parent: Option<String> = None;
    for n in 0..fill.len() {
        let committed = labels(&[(REF, &format!("sha256:{n}"))]);
        remote
            .commit(&name(n), &key(n), &committed, parent.as_deref())
            .unwrap();
        let info = remote.stat(&name(n)).unwrap();
        assert_eq!((info.kind, &info.parent), (Kind::Committed, &parent));
        parent = Some(name(n));
    }
    let mounts = remote.prepare("run", parent.as_deref(), &labels(&[])).unwrap();
    let target = tempfile::tempdir().unwrap();
    mount::attach(&mounts[0], target.path()).unwrap();
    let mut seen = Vec::new();
    let mut dirs = vec![target.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(target.path()).unwrap().display().to_string();
            match path.is_dir() {
                true => dirs.push(path),
                false => seen.push(format!("{name}={}", fs::read_to_string(path).unwrap())),
            }
        }
    }
    mount::detach(target.path()).unwrap();
    seen.sort();
    assert_eq!(
        seen,
        [
            "changed=4",
            "kept/new=3",
            "kept/old=1",
            "opaque/new=2",
            "replaced=4"
        ]
    );
}

/// As containerd's applier makes one in an overlay's upper directory.
fn whiteout(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), makedev(0, 0)).unwrap();
}

#[test]
fn labels_and_flags_say_how_a_snapshot_is_mounted() {
    let strata = Strata::new(PROGRAM);
    let flags = [
        "--upperdir-label",
        "--mount-options",
        "redirect_dir=on,metacopy=off",
    ];
    let served = Served::start(&strata, &flags);
    let remote = served.client("k8s.io");
    remote.prepare("work", None, &labels(&[])).unwrap();
    remote.commit("base", "work", &labels(&[]), None).unwrap();
    let maps = labels(&[
        ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
        ("containerd.io/snapshot/gidmapping", "0:200000:65536"),
    ]);
    let mounts = remote.prepare("mapped", Some("base"), &maps).unwrap();
    let names: Vec<&str> = mounts[0]
        .options
        .iter()
        .map(|o| o.split('=').next().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "uidmap",
            "gidmap",
            "workdir",
            "upperdir",
            "lowerdir",
            "redirect_dir",
            "metacopy",
            "index"
        ]
    );
    assert_eq!(
        mounts[0].options[..2],
        ["uidmap=0:100000:65536", "gidmap=0:200000:65536"]
    );
    let root = fs::metadata(upper(&mounts)).unwrap();
    assert_eq!(
        (root.uid(), root.gid(), root.mode() & 0o7777),
        (100_000, 200_000, 0o755)
    );
    let bare = remote.prepare("bare", None, &maps).unwrap();
    assert_eq!(
        bare[0].options,
        ["uidmap=0:100000:65536", "gidmap=0:200000:65536", "rw", "rbind"]
    );
    assert_eq!(fs::metadata(upper(&bare)).unwrap().uid(), 100_000);
    assert_eq!(remote.mounts("mapped").unwrap(), mounts);

    let told = remote.stat("mapped").unwrap().labels;
    let path = &told["containerd.io/snapshot/overlay.upperdir"];
    assert_eq!(Path::new(path), upper(&mounts));
    // It is told, and cannot be set: updates leave the others as they are.
    let mut changed = told.clone();
    changed.insert("containerd.io/snapshot/overlay.upperdir".into(), "/etc".into());
    changed.insert("new".into(), "1".into());
    let updated = remote.update("mapped", &changed, &[]).unwrap().labels;
    assert_eq!(&updated["containerd.io/snapshot/overlay.upperdir"], path);
    assert_eq!(updated["new"], "1");
    assert_eq!(remote.list(&["name==mapped"]).unwrap()[0].labels, updated);

    // A containerd that has changed the owners itself gets none of it.
    drop(served);
    let served = Served::start(&strata, &["--no-remap-ids"]);
    let remote = served.client("k8s.io");
    for key in ["mapped", "bare"] {
        let unmapped = remote.mounts(key).unwrap();
        let mapped = |option: &String| option.contains("idmap=");
        assert!(!unmapped[0].options.iter().any(mapped), "{unmapped:?}");
    }
}

#[test]
fn layers_that_strata_has_are_not_unpacked_again() {
    let strata = Strata::with_busybox(PROGRAM);
    let chain = strata.ok(["inspect", "busybox", "--format", "{{.RootFS.Layers}}"]);
    let chain = chain.trim().trim_matches(['[', ']', '"']).to_owned();
    let served = Served::start(&strata, &[]);
    let remote = served.client("k8s.io");
    let asked = labels(&[(REF, &chain), ("containerd.io/snapshot/x", "y")]);
    let exists = |result: Result<Vec<Mount>, SnapshotError>| match result {
        Err(SnapshotError::AlreadyExists(text)) => assert!(text.contains(&chain), "{text}"),
        other => panic!("{other:?}"),
    };
    exists(remote.prepare("k8s.io/1/extract", None, &asked));
    // As containerd looks for it then.
    let find = |parent: &str| {
        remote
            .list(&[&format!("labels.\"{REF}\"=={chain},parent==\"{parent}\"")])
            .unwrap()
    };
    let found = find("");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].kind, &found[0].labels), (Kind::Committed, &asked));
    exists(remote.prepare("k8s.io/2/extract", None, &asked));
    // One is enough; that it was given again keeps it from who removes what nobody knows.
    let again = find("");
    assert_eq!(again.len(), 1);
    assert!(
        again[0].key == found[0].key && again[0].updated > found[0].updated,
        "{again:?}"
    );
    // On another layer it is another snapshot's directory, and that is not here.
    remote.prepare("work", None, &labels(&[])).unwrap();
    remote
        .commit("k8s.io/3/other", "work", &labels(&[]), None)
        .unwrap();
    remote
        .prepare("k8s.io/4/extract", Some("k8s.io/3/other"), &asked)
        .unwrap();
    // A container stands on it, and it outlives the image; when both are gone, nothing is left.
    let mounts = remote.prepare("run", Some(&found[0].key), &labels(&[])).unwrap();
    let layer = Overlay::parse(&mounts[0].options).lower.remove(0);
    assert!(layer.starts_with(strata.root()) && layer.join("bin/busybox").exists());
    strata.ok(["rmi", "busybox"]);
    strata.ok(["prune", "-f"]);
    assert!(layer.join("bin/busybox").exists());
    assert_eq!(
        served.client("moby").prepare("moby/1/x", None, &asked).unwrap()[0].kind,
        "overlay",
        "no image vouches for it"
    );
    for key in ["run", &found[0].key] {
        remote.remove(key).unwrap();
    }
    remote.cleanup().unwrap();
    assert!(!layer.exists());
}

#[test]
fn a_size_is_kept_where_the_file_system_can_and_refused_where_not() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, &[]);
    let remote = served.client("k8s.io");
    let sized = wire::PrepareRequest {
        key: "sized".into(),
        labels: labels(&[("containerd.io/snapshot/strata.size", "1m")]),
        ..wire::PrepareRequest::default()
    };
    // The machine's own temporary directory has no project quotas, as nearly none has.
    let status = remote.status("Prepare", &sized);
    assert_eq!(status.code, Code::FailedPrecondition, "{status}");
    assert!(status.message.contains("project quotas"), "{status}");
    assert_eq!(keys(&remote, &[]), [""; 0]);
}
