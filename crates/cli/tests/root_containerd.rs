//! containerd on strata's snapshots: that of Debian 12 (1.6), of Debian 13 (1.7), and of Debian sid (2.x).

#[path = "common/node.rs"]
mod node;

use std::path::Path;
use std::time::{Duration, Instant};

use testkit::containerd::{Containerd, Version};
use testkit::cri::Cri;
use testkit::registry::Registry;
use testkit::snapshots::Served;
use testkit::snapshotter::Snapshotter;
use testkit::{Image, Strata};

use node::{LOOK, Node, PROGRAM, SEEN, TARGET, image, import, offer};

/// Everything that a node does with an image, from bringing to forgetting.
fn a_nodes_life(mut node: Node) {
    const NAME: &str = "docker.io/library/layers:1";
    import(&node, &image(NAME));
    assert_eq!(node.says(NAME, "one", LOOK), SEEN);

    // Several containers of one image: each writes for itself, to the same layers.
    let work = "echo $0 >own; rm kept; sleep 1000";
    for id in ["a", "b", "c"] {
        let ended = node.run(&["--detach"], NAME, id, &["sh", "-c", work, id]);
        assert_eq!(ended.code, 0, "{ended:#?}\n{}", node.containerd.log());
    }
    // By exit codes: what a process prints that ends at once does not always get through ctr.
    let exec = |node: &Node, id: &str, script: &str| {
        let exec = ["task", "exec", "--exec-id", "x", id, "sh", "-c", script, id];
        node.containerd.ok(&exec);
    };
    let wait = "until [ -s own ] && ! [ -e kept ]; do sleep .01; done; [ $(cat own) = $0 ]";
    for id in ["a", "b", "c"] {
        exec(&node, id, wait);
    }

    // The server is killed: what runs does not notice, and what is asked meanwhile fails without blocking.
    node.served.kill();
    exec(&node, "a", "[ $(cat own second | tr -d '\\n') = asecond ]");
    assert_ne!(node.run(&["--rm"], NAME, "two", &["true"]).code, 0);
    node.restart_server();
    let end = Instant::now() + Duration::from_secs(60);
    // containerd connects anew by itself, after a pause of its own.
    while node.run(&["--rm"], NAME, "again", &["true"]).code != 0 {
        assert!(Instant::now() < end, "{}", node.containerd.log());
        node.containerd.end(&["container", "rm", "again"]);
        std::thread::sleep(Duration::from_millis(50));
    }
    // So is containerd.
    node.containerd.restart();
    for id in ["a", "b", "c"] {
        exec(&node, id, "[ $(cat own) = $0 ]");
    }
    assert_eq!(node.says(NAME, "three", LOOK), SEEN);

    for id in ["a", "b", "c"] {
        node.containerd.ok(&["task", "rm", "--force", id]);
        node.containerd.ok(&["container", "rm", id]);
    }
    node.containerd.ok(&["image", "rm", "--sync", NAME]);
    node.is_emptied();
}

#[test]
fn a_nodes_life_on_1_6() {
    a_nodes_life(Node::start(Version::Installed));
}

#[test]
fn a_nodes_life_on_1_7() {
    a_nodes_life(Node::start(Version::Unpacked17));
}

#[test]
fn a_nodes_life_on_2() {
    a_nodes_life(Node::start(Version::Unpacked));
}

#[test]
fn a_nodes_life_on_overlays_that_strata_serves() {
    a_nodes_life(Node::with(Version::Unpacked, &["--driver", "fuse"]));
}

/// An image that comes from a registry, and is forgotten while the server is killed again and again.
fn a_pull(mut node: Node) {
    let registry = Registry::start();
    let layout = tempfile::tempdir().unwrap();
    image("layers").write_layout(layout.path());
    registry.fill(&format!("oci:{}", layout.path().display()), "layers:1", &[]);
    let name = registry.name("layers:1");
    let pull = ["image", "pull", "--plain-http", "--snapshotter=strata", &name];
    node.containerd.ok(&pull);
    assert_eq!(node.says(&name, "one", LOOK), SEEN);
    node.containerd.ok(&["image", "rm", "--sync", &name]);
    node.is_emptied();
    // Again, with the server killed in the middle: at any of its calls. What was begun can be done.
    for round in 0..4 {
        let pulling = node
            .containerd
            .command(&pull)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn();
        std::thread::sleep(Duration::from_millis(60 * round));
        node.restart_server();
        let _ = pulling.unwrap().wait();
    }
    let end = Instant::now() + Duration::from_secs(60);
    while node.containerd.end(&pull).code != 0 {
        assert!(Instant::now() < end, "{}", node.containerd.log());
    }
    assert_eq!(node.says(&name, "two", LOOK), SEEN);
    node.containerd.ok(&["image", "rm", "--sync", &name]);
    node.is_emptied();
}

#[test]
fn a_pull_on_1_6() {
    a_pull(Node::start(Version::Installed));
}

#[test]
fn a_pull_on_1_7() {
    a_pull(Node::start(Version::Unpacked17));
}

#[test]
fn a_pull_on_2() {
    a_pull(Node::start(Version::Unpacked));
}

#[test]
fn a_pull_on_overlays_that_strata_serves() {
    a_pull(Node::with(Version::Unpacked, &["--driver", "fuse"]));
}

fn has_fetched_none(containerd: &Containerd, image: &Image) {
    let (blobs, image) = (containerd.blobs(), image.build());
    for n in 0..image.tars.len() {
        let layer = image.layer(n);
        assert!(
            !blobs.iter().any(|blob| blob.ends_with(&layer)),
            "layer {n} was fetched: {blobs:?}"
        );
    }
}

#[test]
fn layers_that_strata_brought_are_neither_fetched_nor_unpacked() {
    let node = Node::start(Version::Unpacked);
    let registry = Registry::start();
    let image = image("layers");
    let name = offer(&node.strata, &registry, &image, "layers:1");
    node.strata.ok(["--namespace", "k8s.io", "pull", &name]);
    let before = node.directories();
    node.containerd
        .ok(&["image", "pull", "--plain-http", "--snapshotter=strata", &name]);
    assert_eq!(node.directories(), before, "the layers are those that were there");
    has_fetched_none(&node.containerd, &image);
    assert_eq!(node.says(&name, "one", LOOK), SEEN);
    // Either may go first.
    node.strata.ok(["--namespace", "k8s.io", "rmi", &name]);
    node.strata.ok(["prune", "-f"]);
    assert_eq!(node.says(&name, "two", LOOK), SEEN);
    node.containerd.ok(&["image", "rm", "--sync", &name]);
    let end = Instant::now() + Duration::from_secs(60);
    while node.directories() > 0 {
        assert!(Instant::now() < end, "{:?}", node.snapshots());
        node.served.client("").cleanup().unwrap();
    }
}

/// A pod and a container in it, as kubelet asks for them, of an image whose layers strata has brought.
fn a_pods_life(version: Version) {
    let strata = Strata::new(PROGRAM);
    let served = Served::start(&strata, &[]);
    let registry = Registry::start();
    let pause = Image::busybox().config("Cmd", serde_json::json!(["sleep", "1000"]));
    let pause = offer(&strata, &registry, &pause, "pause:1");
    let image = image("layers");
    let name = offer(&strata, &registry, &image, "layers:1");
    let containerd = Containerd::for_kubelet(version, Path::new(TARGET), &served.socket, &pause);
    let node = Node {
        containerd,
        served,
        flags: &[],
        strata,
    };
    node.strata.ok(["--namespace", "k8s.io", "pull", &name]);
    let before = node.directories();
    let cri = Cri::new(&node.containerd.socket());
    cri.pull(&name);
    assert_eq!(node.directories(), before, "the layers are those that were there");
    has_fetched_none(&node.containerd, &image);
    // The one that the sandbox stands on containerd pulls by itself.
    let pod = cri.run_pod("pod", &node.strata.dir().join("logs"));
    let container = cri.start(&pod, "one", &name, &["sleep", "1000"]);
    let said = cri.exec(&container, &["sh", "-c", &format!("echo mine >own; {LOOK}")]);
    assert_eq!(
        (said.code, String::from_utf8_lossy(&said.out).as_ref()),
        (0, SEEN),
        "{said:?}"
    );
    assert_eq!(cri.exec(&container, &["sh", "-c", "exit 3"]).code, 3);
    let listed = node
        .strata
        .ok(["--namespace", "k8s.io", "snapshot", "diff", &container]);
    assert!(listed.contains("A /own\n"), "{listed}");
    // containerd adds up what it asks of each snapshot in rounds of its own.
    let end = Instant::now() + Duration::from_secs(60);
    let taken = loop {
        match cri.takes(&container) {
            // One that it asked about before the container wrote is of the directory alone.
            Some(taken) if taken.inodes > 1 => break taken,
            _ => assert!(Instant::now() < end, "{}", node.containerd.log()),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    // The file, and the directories that lead to it.
    assert!(
        taken.bytes >= 4096 && (2..20).contains(&taken.inodes),
        "{taken:?}"
    );
    testkit::eventually("it knows what images take", || {
        cri.images_take().iter().any(|images| images.bytes > 100_000)
    });
    cri.remove(&container);
    cri.remove_pod(pod);
    cri.remove_image(&name);
    cri.remove_image(&pause);
    node.strata.ok(["--namespace", "k8s.io", "rmi", &name]);
    node.strata.ok(["prune", "-f"]);
    node.is_emptied();
    assert_eq!(node.containerd.blobs(), [""; 0]);
}

#[test]
fn a_pods_life_on_1_6() {
    a_pods_life(Version::Installed);
}

#[test]
fn a_pods_life_on_1_7() {
    a_pods_life(Version::Unpacked17);
}

#[test]
fn a_pods_life_on_2() {
    a_pods_life(Version::Unpacked);
}

#[test]
fn what_containerd_keeps_is_looked_at_and_what_it_forgot_is_told() {
    const NAME: &str = "docker.io/library/layers:1";
    let node = Node::start(Version::Installed);
    import(&node, &image(NAME));
    let ns = node.containerd.namespace();
    let work = "echo mine >own; rm kept; sleep 1000";
    let ended = node.run(&["--detach"], NAME, "looked-at", &["sh", "-c", work]);
    assert_eq!(ended.code, 0, "{ended:#?}");
    let wait = "until [ -s own ] && ! [ -e kept ]; do sleep .01; done";
    node.containerd
        .ok(&["task", "exec", "--exec-id", "x", "looked-at", "sh", "-c", wait]);

    let strata = |words: &[&str]| node.strata.ok([&["--namespace", &ns], words].concat());
    let listed = strata(&["snapshot", "ls"]);
    let lines: Vec<&str> = listed
        .lines()
        .filter(|line| line.contains("/looked-at "))
        .collect();
    assert!(lines.len() == 1 && lines[0].contains(" active "), "{listed}");
    assert_eq!(listed.matches(" committed ").count(), 3, "{listed}");
    assert_eq!(strata(&["snapshot", "ls", "-q"]).lines().count(), 4);
    assert_eq!(node.strata.ok(["snapshot", "ls", "-q"]), "");
    assert_eq!(node.strata.ok(["snapshot", "ls", "-aq"]).lines().count(), 4);
    let tree = strata(&["snapshot", "tree"]);
    let depth = |line: &str| line.chars().take_while(|c| " └├│".contains(*c)).count();
    assert_eq!(
        tree.lines().map(depth).collect::<Vec<_>>(),
        [0, 2, 4, 6],
        "{tree}"
    );
    assert!(
        tree.lines().last().unwrap().ends_with("/looked-at  active"),
        "{tree}"
    );
    let usage: serde_json::Value =
        serde_json::from_str(&strata(&["snapshot", "usage", "looked-at", "--format", "json"])).unwrap();
    assert!(
        usage[0]["bytes"].as_u64().unwrap() >= 4096 && usage[0]["inodes"].as_u64().unwrap() >= 3,
        "{usage}"
    );
    assert_eq!(strata(&["snapshot", "usage"]).lines().count(), 5);
    let layers = strata(&["layers", "looked-at"]);
    let told = [
        "snapshot looked-at  ",
        "├ writable  ",
        "├ layer 3   ",
        "└ layer 1   ",
        "sha256:",
    ];
    assert!(told.iter().all(|word| layers.contains(word)), "{layers}");
    let key = lines[0].split_whitespace().next().unwrap();
    let layers: serde_json::Value =
        serde_json::from_str(&strata(&["layers", key, "--format", "json"])).unwrap();
    let (id, keys) = (&layers["Id"], layers["Layers"].as_array().unwrap());
    assert!(id == key && keys.len() == 3, "{layers}");
    let counted = |layer: &serde_json::Value| {
        let key = layer["Key"].as_str().unwrap();
        key.starts_with(&format!("{ns}/")) && layer["Bytes"].as_u64().unwrap() > 0
    };
    assert!(keys.iter().all(counted), "{layers}");
    let diff = strata(&["snapshot", "diff", "looked-at"]);
    assert!(diff.contains("A /own\n") && diff.contains("D /kept\n"), "{diff}");
    let target = tempfile::tempdir().unwrap();
    let place = target.path().to_str().unwrap();
    strata(&["snapshot", "mount", "looked", place]);
    let seen = std::fs::read_to_string(target.path().join("own")).unwrap();
    let refused = std::fs::write(target.path().join("own"), "x").unwrap_err();
    let kept = target.path().join("kept").exists();
    node.strata.ok(["umount", place]);
    assert_eq!((seen.as_str(), kept), ("mine\n", false));
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let unknown = node
        .strata
        .end(["--namespace", &ns, "snapshot", "diff", "nobody"]);
    assert!(
        unknown.err.contains("no snapshot \"nobody\"") && unknown.err.contains("hint:"),
        "{}",
        unknown.err
    );
    assert!(
        node.strata
            .ok(["df"])
            .lines()
            .any(|line| line.starts_with("Snapshots "))
    );

    // What is younger than a minute may be just being made.
    let age = || age(&node.strata);
    age();
    let asked = format!("--containerd={}", node.containerd.socket().display());
    let fsck = |more: &[&str]| node.strata.end([&["fsck", &asked], more].concat());
    let told = fsck(&[]);
    assert_eq!(told.code, 0, "{told:#?}");
    // Of a containerd whose database was put back.
    let client = node.served.client(&ns);
    let (work, lost, run) = (
        format!("{ns}/900/work"),
        format!("{ns}/901/lost"),
        format!("{ns}/902/run"),
    );
    client.prepare(&work, None, &Default::default()).unwrap();
    client.commit(&lost, &work, &Default::default(), None).unwrap();
    client.prepare(&run, Some(&lost), &Default::default()).unwrap();
    assert_eq!(fsck(&[]).code, 0, "they are young");
    age();
    let told = fsck(&[]);
    assert_eq!(told.code, 4, "{told:#?}");
    for key in [&lost, &run] {
        assert!(
            told.out
                .contains(&format!("snapshot {key} ({ns}): containerd does not know it")),
            "{}",
            told.out
        );
    }
    let told = fsck(&["--repair", "--offline", "--remove"]);
    assert_eq!(told.code, 1, "{told:#?}");
    assert_eq!(strata(&["snapshot", "ls", "-q"]).lines().count(), 4);
    // What containerd knows is not pruned, mounted or not, unless that is asked.
    node.containerd
        .ok(&["task", "kill", "--signal=KILL", "looked-at"]);
    let end = Instant::now() + Duration::from_secs(60);
    while !node.containerd.ok(&["task", "ls"]).contains("STOPPED") {
        assert!(Instant::now() < end, "not in time");
    }
    node.containerd.end(&["task", "rm", "looked-at"]);
    let prune = |more: &[&str]| {
        strata(
            &[
                &["prune", "snapshots", "--dry-run", "--format", "json", &asked],
                more,
            ]
            .concat(),
        )
    };
    let gone = |told: String| {
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        told["Snapshots"].as_array().unwrap().len()
    };
    assert_eq!(gone(prune(&[])), 0);
    assert_eq!(gone(prune(&["--all"])), 4);
    // By another name it may know them.
    let words = [
        "--namespace",
        &ns,
        "prune",
        "snapshots",
        "--dry-run",
        &asked,
        "--snapshotter",
        "other",
    ];
    let refused = node.strata.end(words);
    assert!(
        refused.code != 0 && refused.err.contains("--snapshotter NAME"),
        "{}",
        refused.err
    );
    let nobody = node.strata.end(["fsck", "--containerd=/nonexistent"]);
    assert_eq!(nobody.code, 8);
    assert!(
        nobody.err.contains("/nonexistent cannot be asked"),
        "{}",
        nobody.err
    );

    node.containerd.ok(&["container", "rm", "looked-at"]);
    node.containerd.ok(&["image", "rm", "--sync", NAME]);
    node.is_emptied();
}

/// What containerd has just begun, or committed by another name, is not what nobody knows.
#[test]
fn what_containerd_makes_meanwhile_is_not_pruned() {
    let node = Node::start(Version::Unpacked);
    let (ns, socket) = (node.containerd.namespace(), node.containerd.socket());
    let stale = |n: usize| format!("{ns}/{}/stale", 900 + n);
    let prune = [
        "prune",
        "snapshots",
        "-f",
        "--containerd",
        socket.to_str().unwrap(),
    ];
    let prune = [&["--namespace", &ns], &prune[..]].concat();
    let over = std::sync::atomic::AtomicBool::new(false);
    let is_over = || over.load(std::sync::atomic::Ordering::Relaxed);
    /// Ends the other thread with this one, whatever becomes of it.
    struct Over<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            let mut some = false;
            for n in 0.. {
                let remote = node.served.client(&ns);
                remote.prepare(&stale(n), None, &Default::default()).unwrap();
                let db = rusqlite::Connection::open(node.strata.root().join("metadata.db")).unwrap();
                db.busy_timeout(Duration::from_secs(60)).unwrap();
                let sql = "UPDATE snapshots SET updated = updated - 120000000000, created = created - 120000000000 WHERE key = ?";
                db.execute(sql, (stale(n),)).unwrap();
                // containerd's own collector may have been faster with that one.
                let told = node.strata.ok(&prune);
                let pruned = told.lines().filter(|line| line.starts_with("Snapshot "));
                let others: Vec<&str> = pruned.filter(|line| !line.contains("/stale")).collect();
                assert!(others.is_empty(), "{others:?}");
                some |= told.contains(&stale(n));
                if is_over() {
                    break;
                }
            }
            assert!(some, "nothing was pruned");
        });
        for n in 0..4 {
            let name = format!("docker.io/library/layers:{n}");
            import(&node, &image(&name));
            assert_eq!(node.says(&name, &format!("run-{n}"), LOOK), SEEN);
            node.containerd.ok(&["image", "rm", "--sync", &name]);
        }
    });
    // A collection gives up where what it was about to remove has been pruned; the next one takes the rest.
    let last = "docker.io/library/layers:last";
    import(&node, &image(last));
    node.containerd.ok(&["image", "rm", "--sync", last]);
    node.is_emptied();
}

/// A containerd that lost its database counts from one again: what it brings anew has lower numbers than what it forgot.
#[test]
fn what_another_containerd_runs_and_what_was_brought_since_a_loss_is_not_forgotten() {
    const NAME: &str = "docker.io/library/layers:1";
    let mut node = Node::start(Version::Installed);
    import(&node, &image(NAME));
    node.containerd.ok(&["image", "rm", "--sync", NAME]);
    import(&node, &image(NAME));
    let ended = node.run(&["--detach"], NAME, "runs", &["sleep", "1000"]);
    assert_eq!(ended.code, 0, "{ended:#?}");
    let fsck = |node: &Node, containerd: &Containerd| {
        age(&node.strata);
        let asked = format!("--containerd={}", containerd.socket().display());
        node.strata
            .end(["fsck", &asked, "--repair", "--offline", "--remove"])
    };
    let old = node.snapshots();
    let other = Containerd::start(Version::Installed, Path::new(TARGET), &node.served.socket);
    let told = fsck(&node, &other);
    assert_eq!(told.code, 4, "{told:#?}");
    assert!(told.out.contains("something runs on it"), "{}", told.out);
    assert_eq!(node.snapshots(), old);
    drop(other);

    node.containerd.ok(&["task", "rm", "--force", "runs"]);
    node.containerd.lose("io.containerd.metadata.v1.bolt");
    // Some time has gone by: as much as a commit may last would leave it open which is which.
    (0..6).for_each(|_| age(&node.strata));
    import(&node, &image(NAME));
    let mut all = node.snapshots();
    all.retain(|key| !old.contains(key));
    assert_eq!(all.len(), 3, "{all:?}");
    let told = fsck(&node, &node.containerd);
    assert_eq!(told.code, 1, "{told:#?}");
    assert_eq!(node.snapshots(), all);
    assert_eq!(node.says(NAME, "two", LOOK), SEEN);
    let elsewhere = Node::start(Version::Installed);
    let ns = node.containerd.namespace();
    elsewhere
        .served
        .client(&ns)
        .prepare(&format!("{ns}/1/x"), None, &Default::default())
        .unwrap();
    let told = fsck(&elsewhere, &node.containerd);
    assert!(
        told.code == 8 && told.err.contains("none of them is in this store"),
        "{told:#?}"
    );
}

/// As if everything in the store had been made two minutes ago.
fn age(strata: &Strata) {
    let db = rusqlite::Connection::open(strata.root().join("metadata.db")).unwrap();
    let sql = "UPDATE snapshots SET created = created - 120000000000, updated = updated - 120000000000";
    db.busy_timeout(Duration::from_secs(60)).unwrap();
    db.execute(sql, ()).unwrap();
}
