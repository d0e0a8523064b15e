//! Volumes: rows, directories, who uses them, and what a fill leaves that was killed.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use common::{container, id};
use store::{NewVolume, Store, VolumeError};

fn named(name: &str) -> NewVolume {
    NewVolume {
        name: name.to_owned(),
        ..NewVolume::default()
    }
}

fn anonymous(name: &str) -> NewVolume {
    NewVolume {
        anonymous: true,
        ..named(name)
    }
}

/// Puts files into a volume that is being filled.
fn fill(place: &sys::Dir, names: &[&str]) {
    for name in names {
        place.create_new(name, rustix::fs::Mode::RUSR).unwrap();
    }
}

fn listed(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn made_with_a_container_and_kept_as_long_as_it_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let there = store.create_volume("default", &named("there")).unwrap();
    assert!(matches!(
        store.create_volume("default", &named("there")),
        Err(VolumeError::Exists(_))
    ));
    for bad in ["", "-x", "a/b", "..", "a b"] {
        assert!(matches!(
            store.create_volume("default", &named(bad)),
            Err(VolumeError::Invalid(_))
        ));
    }
    let wanted = [named("there"), named("new"), anonymous("anon"), named("new")];
    let (_, made) = store
        .create_container_with(&container(1, "one", None), None, &wanted)
        .unwrap();
    assert_eq!(made, ["new", "anon"]);
    store
        .create_container_with(&container(2, "two", None), None, &[anonymous("anon")])
        .unwrap();
    let all = store.volumes("default").unwrap();
    let users: Vec<_> = all
        .iter()
        .map(|volume| (volume.name.as_str(), volume.users.len()))
        .collect();
    assert_eq!(users, [("anon", 2), ("new", 1), ("there", 1)]);
    assert!(all.iter().all(|volume| volume.path.is_dir()));
    assert!(store.volumes("other").unwrap().is_empty());
    let error = store.remove_volume("default", "there").unwrap_err();
    assert!(error.to_string().contains("container one"), "{error}");
    assert_eq!(store.check(true, &|_, _| {}).unwrap(), []);
    // Nothing of theirs is garbage.
    store.collect_older_than(Duration::ZERO).unwrap();
    assert!(there.path.is_dir());
    let (_, gone) = store.remove_container_with("default", &id(1), true).unwrap();
    assert!(gone.is_empty());
    assert!(store.find_volume("default", "anon").is_ok(), "another uses it");
    store.remove_container("default", &id(2)).unwrap();
    assert!(store.find_volume("default", "anon").is_ok(), "that was not asked");
    store
        .create_container_with(&container(3, "three", None), None, &[anonymous("anon")])
        .unwrap();
    let (_, gone) = store.remove_container_with("default", &id(3), true).unwrap();
    assert_eq!(gone, ["anon"]);
    assert!(matches!(
        store.find_volume("default", "anon"),
        Err(VolumeError::NotFound(_))
    ));
    for name in ["there", "new"] {
        store.remove_volume("default", name).unwrap();
    }
    assert!(listed(&temp.path().join("snapshots")).is_empty());
    assert_eq!(store.counts().unwrap(), Default::default());
}

#[test]
fn a_container_that_is_not_made_leaves_no_volume() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    store.create_container(&container(1, "one", None), None).unwrap();
    store
        .create_container_with(&container(2, "one", None), None, &[named("new")])
        .unwrap_err();
    assert!(store.volumes("default").unwrap().is_empty());
    assert!(listed(&temp.path().join("snapshots")).is_empty());
}

#[test]
fn a_fill_that_was_killed_begins_anew_and_one_that_was_whole_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let volume = store.create_volume("default", &named("vol")).unwrap();
    let own = volume.path.parent().unwrap().to_owned();
    let begin = || store.fill_volume("default", "vol").unwrap();

    let killed = begin().unwrap();
    fill(killed.place(), &["half"]);
    drop(killed);
    assert_eq!(listed(&volume.path), [""; 0]);

    let whole = begin().unwrap();
    assert_eq!(
        listed(&own.join("filling")),
        [""; 0],
        "nothing is left of the one before"
    );
    fill(whole.place(), &["a", "b", "c"]);
    drop(whole);
    // Killed after it was called `filled`, and after one of three was moved.
    fs::rename(own.join("filling"), own.join("filled")).unwrap();
    fs::rename(own.join("filled/b"), volume.path.join("b")).unwrap();
    assert!(begin().is_none());
    assert_eq!(listed(&volume.path), ["a", "b", "c"]);
    assert_eq!(listed(&own), ["fs"]);
    assert!(store.find_volume("default", "vol").unwrap().settled);
    for name in ["a", "b", "c"] {
        fs::remove_file(volume.path.join(name)).unwrap();
    }
    assert!(begin().is_none(), "it takes nothing any more");

    // What somebody put there first stays, and nothing is put beside it.
    let other = store.create_volume("default", &named("other")).unwrap();
    fs::write(other.path.join("mine"), "mine").unwrap();
    assert!(store.fill_volume("default", "other").unwrap().is_none());
    let third = store.create_volume("default", &named("third")).unwrap();
    let filling = store.fill_volume("default", "third").unwrap().unwrap();
    fill(filling.place(), &["a", "b"]);
    fs::write(third.path.join("a"), "mine").unwrap();
    filling.finish().unwrap();
    assert_eq!(fs::read_to_string(third.path.join("a")).unwrap(), "mine");
    assert_eq!(listed(&third.path), ["a", "b"]);
}
