//! What a container sees as `/` looks like the topmost root that a layer describes. Needs root, for owners and for
//! the overlay's own attributes.

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use common::{container, id};
use store::{Digest, ImageLayer, ImageRecord, LayerMeta, Lease, PrepareOptions, Store, Usage};
use sys::Dir;

/// Gives a directory every attribute that there is.
fn adorn(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid + 1)).expect("this test changes owners: run it as root");
    fs::set_permissions(path, fs::Permissions::from_mode(0o3751)).unwrap();
    let dir = Dir::open_ambient(path).unwrap();
    for (name, value) in [
        ("user.colour", &b"blue"[..]),
        ("trusted.secret", b"\0\xff"),
        ("trusted.overlay.opaque", b"y"),
        ("trusted.overlay.overlay.opaque", b"x"),
    ] {
        sys::xattr::set(dir.as_fd(), name, value).unwrap();
    }
    let time = UNIX_EPOCH + Duration::new(1_000_000_000 + u64::from(uid), 123_456_789);
    fs::File::open(path)
        .unwrap()
        .set_times(fs::FileTimes::new().set_modified(time).set_accessed(time))
        .unwrap();
}

fn is_adorned(path: &Path, uid: u32) {
    let status = fs::metadata(path).unwrap();
    assert_eq!(
        (status.uid(), status.gid(), status.mode() & 0o7777),
        (uid, uid + 1, 0o3751)
    );
    assert_eq!(
        (status.mtime(), status.mtime_nsec()),
        (1_000_000_000 + i64::from(uid), 123_456_789)
    );
    let dir = Dir::open_ambient(path).unwrap();
    let mut names = sys::xattr::list(dir.as_fd()).unwrap();
    names.retain(|name| name != "security.selinux");
    names.sort();
    assert_eq!(
        names,
        ["trusted.overlay.overlay.opaque", "trusted.secret", "user.colour"]
    );
    assert_eq!(
        sys::xattr::get(dir.as_fd(), "trusted.secret").unwrap().unwrap(),
        b"\0\xff"
    );
}

/// An image of empty layers; each says whether it lists its root, which then is adorned for the user of its index.
fn image(store: &Store, lease: &Lease, listed: &[bool]) -> String {
    let mut below = None;
    let mut layers = Vec::new();
    for (index, listed) in listed.iter().enumerate() {
        let new = store.new_layer(lease).unwrap();
        new.record().unwrap();
        if *listed {
            adorn(&store.layer_path(new.n()), u32::try_from(index).unwrap());
        }
        let diff_id = Digest::of(format!("{index} {listed} {below:?}"));
        let chain_id = Digest::chain(below.as_ref(), &diff_id);
        let meta = LayerMeta {
            diff_id,
            chain_id,
            depends_on_below: false,
            root_listed: *listed,
            usage: Usage::default(),
        };
        let layer = store.commit_layers(lease, vec![(new, meta)]).unwrap().remove(0);
        let blob = common::blob(store, lease, &diff_id.to_string());
        layers.push(ImageLayer {
            blob,
            diff_id,
            chain_id,
            layer_n: layer.n,
            created_by: None,
        });
        below = Some(chain_id);
    }
    let blob = common::blob(store, lease, &format!("{below:?}"));
    let record = ImageRecord {
        target: blob.clone(),
        manifest: blob.clone(),
        config: blob,
        os: "linux".into(),
        architecture: "amd64".into(),
        variant: None,
        created: None,
        layers,
    };
    store
        .put_image(lease, "default", &format!("{listed:?}"), &record)
        .unwrap();
    common::top(&record)
}

fn root_of(store: &Store, number: u64, parent: Option<&str>, options: &PrepareOptions) -> PathBuf {
    let new = container(number, &format!("c{number}"), None);
    store.create_container(&new, Some((parent, options))).unwrap();
    store.upper_path("default", &id(number)).unwrap()
}

#[test]
fn the_root_is_that_of_the_topmost_layer_which_lists_it() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("store")).unwrap();
    let lease = store.lease("test").unwrap();
    let plain = PrepareOptions::default();

    let top = image(&store, &lease, &[true, true, false]);
    is_adorned(&root_of(&store, 1, Some(&top), &plain), 1);
    let top = image(&store, &lease, &[true, false, false]);
    is_adorned(&root_of(&store, 2, Some(&top), &plain), 0);

    let top = image(&store, &lease, &[false]);
    let root = root_of(&store, 3, Some(&top), &plain);
    let status = fs::metadata(&root).unwrap();
    assert_eq!(
        (status.uid(), status.gid(), status.mode() & 0o7777),
        (0, 0, 0o755)
    );
    assert_eq!(
        sys::xattr::get(Dir::open_ambient(&root).unwrap().as_fd(), "user.colour").unwrap(),
        None
    );
}

#[test]
fn the_root_over_a_foreign_directory_is_that_directorys() {
    let temp = tempfile::tempdir().unwrap();
    let host = temp.path().join("host");
    fs::create_dir(&host).unwrap();
    adorn(&host, 7);
    let store = Store::open(&temp.path().join("store")).unwrap();
    let options = PrepareOptions {
        lower: Some(host),
        ..PrepareOptions::default()
    };
    is_adorned(&root_of(&store, 1, None, &options), 7);
}
