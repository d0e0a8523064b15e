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
use store::{Kind, Labels, REF, SnapshotError};
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

#[test]
fn layers_that_are_unpacked_beside_each_other_keep_their_whiteouts() {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, &[]);
    let remote = served.client("k8s.io");
    let layer = |name: &str| {
        let mounts = remote.prepare(name, None, &labels(&[(REF, name)])).unwrap();
        assert_eq!(mounts[0].kind, "overlay", "{mounts:?}");
        assert_eq!(mounts, remote.mounts(name).unwrap());
        let overlay = Overlay::parse(&mounts[0].options);
        assert_eq!(fs::read_dir(&overlay.lower[0]).unwrap().count(), 0);
        let target = tempfile::tempdir().unwrap();
        mount::attach(&mounts[0], target.path()).unwrap();
        mount::detach(target.path()).unwrap();
        overlay.writable.unwrap().0
    };
    let (base, next) = (layer("base"), layer("next"));
    fs::write(base.join("deleted"), "").unwrap();
    fs::write(base.join("kept"), "").unwrap();
    // As containerd's applier does with an overlay: it writes to the upper directory itself.
    let device = rustix::fs::makedev(0, 0);
    let mode = rustix::fs::Mode::empty();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        next.join("deleted"),
        rustix::fs::FileType::CharacterDevice,
        mode,
        device,
    )
    .unwrap();
    remote.commit("1", "base", &labels(&[]), None).unwrap();
    remote.commit("2", "next", &labels(&[]), Some("1")).unwrap();
    let mounts = remote.prepare("run", Some("2"), &labels(&[])).unwrap();
    assert_eq!(Overlay::parse(&mounts[0].options).lower, [next, base]);
    let target = tempfile::tempdir().unwrap();
    mount::attach(&mounts[0], target.path()).unwrap();
    let names: Vec<_> = fs::read_dir(target.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    mount::detach(target.path()).unwrap();
    assert_eq!(names, ["kept"]);
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
    assert_eq!(find(""), found, "one is enough");
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
