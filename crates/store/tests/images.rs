//! Images and containers: who keeps what, who finds whom, what goes when.

mod common;

use std::time::Duration;

use common::{blob, check, container, id, image, plain, record, top};
use store::{Collected, ContainerError, Digest, ImageError, PrepareOptions, Store};

fn scratch() -> (tempfile::TempDir, Store) {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("store")).unwrap();
    (temp, store)
}

fn settle(store: &Store) -> Collected {
    let collected = store.collect_older_than(Duration::ZERO).unwrap();
    assert_eq!(check(store.root(), true), Vec::<String>::new());
    collected
}

#[test]
fn an_image_is_put_listed_found_tagged_and_removed() {
    let (_temp, store) = scratch();
    let a = image(&store, "default", "docker.io/library/a:latest", &["base", "a"]);
    image(
        &store,
        "default",
        "docker.io/library/b:latest",
        &["base", "b", "b2"],
    );
    image(&store, "k8s.io", "docker.io/library/a:latest", &["base", "a"]);

    let images = store.images("default").unwrap();
    assert_eq!(
        images
            .iter()
            .map(|i| (i.name.as_str(), i.layers))
            .collect::<Vec<_>>(),
        [
            ("docker.io/library/a:latest", 2),
            ("docker.io/library/b:latest", 3)
        ]
    );
    let found = store
        .find_image("default", "docker.io/library/a:latest")
        .unwrap()
        .unwrap();
    assert_eq!(found, images[0]);
    assert_eq!((found.id, found.os.as_str()), (a.config.digest, "linux"));
    assert_eq!(found.usage.apparent, "basea".len() as u64);
    assert_eq!(found.usage.inodes, 4);
    assert_eq!(found.top_chain.unwrap().to_string(), top(&a));
    assert_eq!(store.find_image("default", "a").unwrap(), None);
    assert_eq!(store.manifest_layers(&a.manifest.digest).unwrap(), a.layers);

    let prefix = &a.config.digest.hex()[..12];
    store
        .tag("default", "docker.io/library/a:latest", "localhost/c:1")
        .unwrap();
    let by_id = store.images_by_id_prefix("default", prefix).unwrap();
    assert_eq!(
        by_id.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
        ["docker.io/library/a:latest", "localhost/c:1"]
    );
    for nothing in ["", "xyz", "%", "ffffffffffff"] {
        assert_eq!(
            store.images_by_id_prefix("default", nothing).unwrap(),
            [],
            "{nothing:?}"
        );
    }

    let removed = store
        .remove_image("default", "docker.io/library/a:latest")
        .unwrap();
    assert_eq!((removed.id, removed.last), (a.config.digest, false));
    let removed = store.remove_image("default", "localhost/c:1").unwrap();
    assert!(removed.last);
    assert!(matches!(
        store.remove_image("default", "localhost/c:1"),
        Err(ImageError::NotFound(_))
    ));
    // The other namespace still has it.
    let collected = settle(&store);
    assert_eq!(
        (collected.layers, collected.blobs, collected.snapshots),
        (0, 0, 1)
    );
    store
        .remove_image("k8s.io", "docker.io/library/a:latest")
        .unwrap();
    let collected = settle(&store);
    assert_eq!(
        (collected.layers, collected.blobs, collected.snapshots),
        (1, 3, 2)
    );
    assert!(collected.bytes >= 3);
    store
        .remove_image("default", "docker.io/library/b:latest")
        .unwrap();
    settle(&store);
    let counts = store.counts().unwrap();
    assert_eq!(counts, Default::default());
}

#[test]
fn a_name_takes_the_place_of_an_id() {
    let (_temp, store) = scratch();
    let (a, b) = (
        image(&store, "default", "docker.io/library/a:latest", &["a"]),
        image(&store, "default", "docker.io/library/b:latest", &["b"]),
    );
    let [a_id, b_id] = [&a, &b].map(|image| image.config.digest.to_string());
    store.tag("default", "docker.io/library/b:latest", &b_id).unwrap();
    // What an image without a name is stored as.
    store.tag("default", "docker.io/library/a:latest", &a_id).unwrap();
    store
        .remove_image("default", "docker.io/library/a:latest")
        .unwrap();
    let names = || -> Vec<String> {
        let images = store.images("default").unwrap();
        images.into_iter().map(|image| image.name).collect()
    };
    assert!(names().contains(&a_id));
    store.tag("default", &a_id, "localhost/a:1").unwrap();
    assert_eq!(
        names(),
        [
            "docker.io/library/b:latest".to_owned(),
            "localhost/a:1".into(),
            b_id
        ]
    );
}

#[test]
fn a_name_moves_and_tells_what_had_it() {
    let (_temp, store) = scratch();
    let old = image(&store, "default", "n", &["old"]);
    let lease = store.lease("again").unwrap();
    let new = record(&store, &lease, &["new"]);
    let put = store.put_image(&lease, "default", "n", &new).unwrap();
    assert_eq!(put.replaced, Some(old.config.digest));
    assert_eq!(
        store.put_image(&lease, "default", "n", &new).unwrap().replaced,
        None
    );
    store.release(lease).unwrap();
    assert_eq!(settle(&store).layers, 1);
}

#[test]
fn an_image_with_something_missing_is_refused_whole() {
    let (_temp, store) = scratch();
    let lease = store.lease("test").unwrap();
    let good = record(&store, &lease, &["x"]);
    let mut bad = good.clone();
    bad.config.digest = Digest::of("never brought");
    let error = store.put_image(&lease, "default", "n", &bad).unwrap_err();
    assert!(matches!(error, ImageError::MissingBlob { digest, .. } if digest == bad.config.digest));
    let mut bad = good.clone();
    bad.layers[0].layer_n += 1;
    let error = store.put_image(&lease, "default", "n", &bad).unwrap_err();
    assert!(matches!(error, ImageError::MissingLayer { .. }));
    store.prepare("default", &top(&good), None, &plain()).unwrap();
    let error = store.put_image(&lease, "default", "n", &good).unwrap_err();
    assert!(matches!(error, ImageError::KeyTaken { .. }));
    assert_eq!(store.images("default").unwrap(), []);
    store.remove("default", &top(&good)).unwrap();
    store.release(lease).unwrap();
    settle(&store);
    assert_eq!(store.counts().unwrap(), Default::default());
}

#[test]
fn a_layer_twice_in_an_image_is_mounted_once() {
    let (_temp, store) = scratch();
    let record = image(&store, "default", "n", &["empty", "x", "empty"]);
    let new = container(1, "c", Some(&record));
    let mounts = store
        .create_container(&new, Some((Some(&top(&record)), &plain())))
        .unwrap();
    let root = store.root().display();
    assert_eq!(
        mounts[0].options,
        [
            format!("workdir={root}/snapshots/3/work"),
            format!("upperdir={root}/snapshots/3/fs"),
            format!("lowerdir={root}/snapshots/1/fs:{root}/snapshots/2/fs:{root}/mountpoints"),
            "index=off".to_owned(),
        ]
    );
    let image = store.find_image("default", "n").unwrap().unwrap();
    assert_eq!((image.layers, image.usage.apparent), (3, 6));
}

#[test]
fn mount_points_lie_beneath_the_layers_of_containers_alone() {
    let (_temp, store) = scratch();
    let record = image(&store, "default", "n", &["x"]);
    let new = container(1, "c", Some(&record));
    let mounts = store
        .create_container(&new, Some((Some(&top(&record)), &plain())))
        .unwrap();
    let lowest = |mounts: &[mount::Mount]| {
        let overlay = mount::overlay::Overlay::parse(&mounts[0].options);
        overlay.lower.last().unwrap().clone()
    };
    let points = store.root().join("mountpoints");
    assert_eq!(lowest(&mounts), points);
    let layer = store.root().join("snapshots/1/fs");
    assert_eq!(lowest(&store.mounts("default", &new.id).unwrap()), layer);
    // They come again, whatever became of them, and are left out where they cannot.
    std::fs::remove_dir_all(points.join("etc")).unwrap();
    assert_eq!(lowest(&store.root_mounts("default", &new.id).unwrap()), points);
    assert!(points.join("etc/resolv.conf").is_file() && points.join("proc").is_dir());
    std::fs::remove_dir_all(&points).unwrap();
    std::fs::write(&points, "").unwrap();
    let without = store.root_mounts("default", &new.id).unwrap();
    assert_eq!(without, store.mounts("default", &new.id).unwrap());
}

#[test]
fn containers_are_found_by_name_id_and_prefix() {
    let (_temp, store) = scratch();
    let record = image(&store, "default", "n", &["x"]);
    let mut a = container(0xa1, "one", Some(&record));
    a.id = format!("aa1{}", "0".repeat(61));
    let mut b = container(0xa2, "two", None);
    b.id = format!("aa2{}", "0".repeat(61));
    store
        .create_container(&a, Some((Some(&top(&record)), &plain())))
        .unwrap();
    assert_eq!(store.create_container(&b, None).unwrap(), []);

    let find = |wanted: &str| store.find_container("default", wanted);
    assert_eq!(find("one").unwrap(), a);
    assert_eq!(find("aa2").unwrap(), b);
    assert_eq!(find(&a.id).unwrap(), a);
    assert!(matches!(
        find("aa"),
        Err(ContainerError::Ambiguous { count: 2, .. })
    ));
    for nobody in ["", "bb", "One", "aa%"] {
        assert!(
            matches!(find(nobody), Err(ContainerError::NotFound(_))),
            "{nobody:?}"
        );
    }
    assert!(matches!(
        store.find_container("k8s.io", "one"),
        Err(ContainerError::NotFound(_))
    ));
    // The newest first.
    assert_eq!(store.containers("default").unwrap(), [b.clone(), a.clone()]);

    let mut again = container(3, "one", None);
    let error = store.create_container(&again, None).unwrap_err();
    assert!(matches!(error, ContainerError::NameInUse { id, .. } if id == a.id));
    again.name = "three".into();
    again.id = b.id.clone();
    assert!(matches!(
        store.create_container(&again, None),
        Err(ContainerError::IdInUse(_))
    ));
    again.id = "not hex".into();
    assert!(matches!(
        store.create_container(&again, None),
        Err(ContainerError::Invalid(_))
    ));
    again.id = id(9);
    let other = Digest::of("other");
    again.manifest = Some(other);
    assert!(
        matches!(store.create_container(&again, None), Err(ContainerError::ManifestGone(d)) if d == other)
    );
    again.manifest = None;
    let missing = other.to_string();
    let error = store
        .create_container(&again, Some((Some(&missing), &plain())))
        .unwrap_err();
    assert!(error.to_string().contains(&missing), "{error}");
    // Refused ones left nothing behind: one layer, one upper.
    assert_eq!(
        std::fs::read_dir(store.root().join("snapshots")).unwrap().count(),
        2
    );

    store.remove_container("default", &a.id).unwrap();
    store.remove_container("default", &b.id).unwrap();
    assert!(matches!(
        store.remove_container("default", &a.id),
        Err(ContainerError::NotFound(_))
    ));
    settle(&store);
}

#[test]
fn a_container_keeps_what_its_image_brought() {
    let (_temp, store) = scratch();
    let a = image(&store, "default", "a", &["base", "a"]);
    let new = container(1, "c", Some(&a));
    let mounts = store
        .create_container(&new, Some((Some(&top(&a)), &plain())))
        .unwrap();
    assert_eq!(
        store.containers_of("default", &a.manifest.digest).unwrap(),
        std::slice::from_ref(&new)
    );
    assert_eq!(store.containers_of("k8s.io", &a.manifest.digest).unwrap(), []);
    store.remove_image("default", "a").unwrap();
    let collected = settle(&store);
    assert_eq!(collected, Collected::default());
    assert_eq!(store.root_mounts("default", &new.id).unwrap(), mounts);
    assert_eq!(store.manifest_layers(&a.manifest.digest).unwrap().len(), 2);
    store.read_blob(&a.config.digest, 999).unwrap();

    store.remove_container("default", &new.id).unwrap();
    let collected = settle(&store);
    assert_eq!(
        (collected.layers, collected.blobs, collected.snapshots),
        (2, 4, 2)
    );
}

#[test]
fn sharers_and_stacks() {
    let (_temp, store) = scratch();
    let a = image(&store, "default", "a", &["base", "a"]);
    let b = image(&store, "k8s.io", "b", &["base", "b"]);
    let new = container(1, "c", Some(&a));
    store
        .create_container(&new, Some((Some(&top(&a)), &plain())))
        .unwrap();
    let names = |n: u64| {
        let sharers = store.sharers(n).unwrap();
        let join = |holders: Vec<store::Holder>| {
            let all: Vec<String> = holders
                .into_iter()
                .map(|h| format!("{}/{}", h.ns, h.name))
                .collect();
            all.join(" ")
        };
        (join(sharers.images), join(sharers.containers))
    };
    assert_eq!(
        names(a.layers[0].layer_n),
        ("default/a k8s.io/b".into(), "default/c".into())
    );
    assert_eq!(names(b.layers[1].layer_n), ("k8s.io/b".into(), String::new()));
    assert_eq!(store.namespaces().unwrap(), ["default", "k8s.io"]);

    let stack = store.stack("default", &new.id).unwrap();
    let upper = store.upper_path("default", &new.id).unwrap();
    assert_eq!(upper, store.layer_path(stack.upper.unwrap()));
    let diff_ids: Vec<_> = stack
        .lowers
        .iter()
        .map(|dir| dir.layer.as_ref().unwrap().diff_id)
        .collect();
    assert_eq!(diff_ids, [a.layers[1].diff_id, a.layers[0].diff_id]);
    let committed = store.stack("k8s.io", &top(&b)).unwrap();
    assert_eq!((committed.upper, committed.lowers.len()), (None, 2));
    assert_eq!(committed.lowers[1].n, Some(a.layers[0].layer_n));
}

#[test]
fn a_foreign_directory_beneath_a_container() {
    let (temp, store) = scratch();
    let lower = temp.path().join("host");
    std::fs::create_dir(&lower).unwrap();
    let options = PrepareOptions {
        lower: Some(lower.clone()),
        volatile: true,
        ..plain()
    };
    let mut new = container(1, "c", None);
    new.ephemeral = true;
    let mounts = store.create_container(&new, Some((None, &options))).unwrap();
    let root = store.root().display();
    assert_eq!(
        mounts[0].options,
        [
            format!("workdir={root}/snapshots/1/work"),
            format!("upperdir={root}/snapshots/1/fs"),
            format!("lowerdir={}", lower.display()),
            "volatile".to_owned(),
            "index=off".to_owned(),
        ]
    );
    assert_eq!(store.mounts("default", &new.id).unwrap(), mounts);
    assert_eq!(store.stack("default", &new.id).unwrap().lowers[0].path, lower);
    store.remove_container("default", &new.id).unwrap();
    settle(&store);
}

#[test]
fn a_lease_protects_until_it_ends_and_a_dead_one_for_the_grace_period() {
    let (_temp, store) = scratch();
    let lease = store.lease("pull x").unwrap();
    let layer = record(&store, &lease, &["x"]).layers.remove(0);
    let found = || {
        (
            store.blob_size(&layer.blob.digest).unwrap().is_some(),
            store
                .find_layer(&layer.diff_id, &layer.chain_id)
                .unwrap()
                .is_some(),
        )
    };
    assert_eq!(
        store.collect_older_than(Duration::ZERO).unwrap(),
        Collected::default()
    );
    assert_eq!(found(), (true, true));
    // The process ends; a rmi by somebody else collects; the next pull finds everything.
    drop(lease);
    assert_eq!(store.collect().unwrap(), Collected::default());
    assert_eq!(found(), (true, true));
    let collected = settle(&store);
    assert_eq!((collected.leases, collected.layers), (1, 1));
    assert_eq!(found(), (false, false));

    // Held by a lease that ended well, and by nobody after.
    let lease = store.lease("pull y").unwrap();
    let y = blob(&store, &lease, "y");
    store.settle(&lease).unwrap();
    store.release(lease).unwrap();
    assert_eq!(store.collect().unwrap().blobs, 1);
    assert_eq!(store.blob_size(&y.digest).unwrap(), None);
}

#[test]
fn what_a_lease_finds_it_holds() {
    let (_temp, store) = scratch();
    let a = image(&store, "default", "a", &["x"]);
    let layer = &a.layers[0];
    let lease = store.lease("pull").unwrap();
    assert_eq!(store.hold_blob(&lease, &layer.blob.digest).unwrap(), Some(1));
    assert_eq!(store.hold_blob(&lease, &Digest::of("no")).unwrap(), None);
    let held = store
        .hold_layer(&lease, &layer.diff_id, &layer.chain_id)
        .unwrap()
        .unwrap();
    assert_eq!(held.n, layer.layer_n);
    store.remove_image("default", "a").unwrap();
    let collected = store.collect_older_than(Duration::ZERO).unwrap();
    // Manifest and config went, what is held stayed.
    assert_eq!((collected.blobs, collected.layers), (2, 0));
    assert_eq!(store.blob_size(&layer.blob.digest).unwrap(), Some(1));
    store.release(lease).unwrap();
    assert_eq!(settle(&store).layers, 1);
}

#[test]
fn a_name_keeps_further_blobs_until_it_leads_elsewhere() {
    let (_temp, store) = scratch();
    let lease = store.lease("test").unwrap();
    let first = record(&store, &lease, &["base", "a"]);
    let other = blob(&store, &lease, "for another platform");
    let put =
        |name: &str, others: &[Digest]| store.put_image_keeping(&lease, "default", name, &first, others);
    let missing = put("a", &[Digest::of("nowhere")]);
    assert!(
        matches!(missing, Err(ImageError::MissingBlob { .. })),
        "{missing:?}"
    );
    put("a", &[other.digest]).unwrap();
    store.tag("default", "a", "b").unwrap();
    store.tag("default", "b", "b").unwrap();
    store.release(lease).unwrap();
    let there = || store.blob_size(&other.digest).unwrap().is_some();
    settle(&store);
    assert!(there());
    // Put again without them, the first name lets them go; the second still keeps them.
    image(&store, "default", "a", &["base", "a"]);
    settle(&store);
    assert!(there());
    store.remove_image("default", "b").unwrap();
    settle(&store);
    assert!(!there());
}

#[test]
fn a_container_marks_its_image_as_used() {
    let (_temp, store) = scratch();
    let name = "docker.io/library/a:latest";
    let a = image(&store, "default", name, &["base", "a"]);
    let used = || store.find_image("default", name).unwrap().unwrap().used;
    let set = |minutes: i64| {
        let db = rusqlite::Connection::open(store.root().join("metadata.db")).unwrap();
        let sql = "UPDATE images SET used = used - ?";
        db.execute(sql, [minutes * 60_000_000_000]).unwrap();
    };
    let put = used();
    let from = top(&a);
    let run = |number: u64| {
        let new = container(number, &format!("c{number}"), Some(&a));
        store
            .create_container(&new, Some((Some(&from), &plain())))
            .unwrap();
    };
    run(1);
    // Within the minute nothing is written.
    assert_eq!(used(), put);
    set(2);
    run(2);
    assert!(used() >= put, "{} {put}", used());
}

#[test]
fn blobs_of_unpacked_layers_may_be_dropped_and_no_others() {
    let (_temp, store) = scratch();
    let a = image(&store, "default", "a", &["base", "a"]);
    image(&store, "default", "b", &["base", "b"]);
    let spare = store.spare_blobs().unwrap();
    let digests: Vec<Digest> = spare.iter().map(|layer| layer.blob.digest).collect();
    assert_eq!(digests.len(), 3);
    // What somebody holds stays, as do manifests and configurations.
    let lease = store.lease("push").unwrap();
    store.hold_blob(&lease, &a.layers[1].blob.digest).unwrap();
    let asked = [&digests[..], &[a.manifest.digest, a.config.digest]].concat();
    let dropped = store.drop_blobs(&asked).unwrap();
    assert_eq!((dropped.blobs, dropped.bytes), (2, "baseb".len() as u64));
    store.release(lease).unwrap();
    settle(&store);
    let there = |digest: &Digest| store.blob_size(digest).unwrap().is_some();
    assert!(there(&a.layers[1].blob.digest) && !there(&a.layers[0].blob.digest));
    assert!(there(&a.manifest.digest) && there(&a.config.digest));
    assert_eq!(store.spare_blobs().unwrap().len(), 1);
}
