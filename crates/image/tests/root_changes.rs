//! What a container's upper directory changes, against a comparison of whole trees. Needs root.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use image::changes::changes;
use support::container::{Container, act};
use support::random::{Shape, layers};
use support::*;
use sys::Dir;
use testkit::random::Random;

fn base() -> Layer {
    layer(
        Tar::new()
            .dir("etc", 0o755)
            .file("etc/passwd", "root")
            .file("etc/group", "root")
            .dir("usr", 0o755)
            .dir("usr/lib", 0o755)
            .file("usr/lib/a", "a")
            .file("usr/lib/b", "b")
            .dir("tmp", 0o1777)
            .symlink("link", "etc"),
        &[],
    )
}

#[test]
fn as_docker_tells_them() {
    let container = Container::new(vec![base(), layer(Tar::new().file("top", "x"), &[])], &[]);
    assert_eq!(container.changes(), [""; 0]);
    fs::write(container.at("tmp/new"), "").unwrap();
    fs::create_dir_all(container.at("srv/deep/er")).unwrap();
    fs::write(container.at("etc/passwd"), "other").unwrap();
    fs::remove_file(container.at("usr/lib/a")).unwrap();
    fs::remove_file(container.at("top")).unwrap();
    // Opened for writing, and nothing written: copied up, and not changed.
    fs::File::options()
        .append(true)
        .open(container.at("etc/group"))
        .unwrap();
    assert_eq!(
        container.changes(),
        [
            "C /etc",
            "C /etc/passwd",
            "A /srv",
            "A /srv/deep",
            "A /srv/deep/er",
            "C /tmp",
            "A /tmp/new",
            "D /top",
            "C /usr",
            "C /usr/lib",
            "D /usr/lib/a",
        ]
    );
}

#[test]
fn kinds_that_change() {
    let container = Container::new(vec![base()], &[]);
    fs::remove_dir_all(container.at("usr")).unwrap();
    fs::write(container.at("usr"), "now a file").unwrap();
    fs::remove_file(container.at("link")).unwrap();
    fs::create_dir(container.at("link")).unwrap();
    fs::write(container.at("link/f"), "").unwrap();
    fs::remove_dir_all(container.at("etc")).unwrap();
    fs::create_dir(container.at("etc")).unwrap();
    fs::write(container.at("etc/group"), "new").unwrap();
    fs::set_permissions(container.at("tmp"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(
        container.changes(),
        [
            "C /etc",
            "C /etc/group",
            "D /etc/passwd",
            "C /link",
            "A /link/f",
            "C /tmp",
            "C /usr"
        ]
    );
}

#[test]
fn attributes_owners_and_times() {
    let container = Container::new(vec![base()], &[]);
    let dir = Dir::open_ambient(container.at("etc")).unwrap();
    dir.set_xattr("passwd", "user.k", b"v").unwrap();
    dir.set_owner("group", 1, 0).unwrap();
    assert_eq!(container.changes(), ["C /etc", "C /etc/group", "C /etc/passwd"]);
}

#[test]
fn a_renamed_directory_is_shown_with_everything_in_it() {
    let container = Container::new(vec![base()], &["redirect_dir=on"]);
    fs::rename(container.at("usr/lib"), container.at("moved")).unwrap();
    fs::remove_file(container.at("moved/b")).unwrap();
    assert_eq!(
        container.changes(),
        ["A /moved", "A /moved/a", "C /usr", "D /usr/lib"]
    );
}

/// What the comparison promises, from two whole trees.
fn compare_trees(old: &BTreeMap<PathBuf, String>, new: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let is_dir = |text: &str| text.starts_with('4');
    let without_time = |text: &str| {
        let mut words: Vec<&str> = text.split(' ').collect();
        words.remove(2);
        words.join(" ")
    };
    let mut changed = BTreeMap::new();
    for (path, text) in new {
        match old.get(path) {
            None => {
                changed.insert(path.clone(), 'A');
            }
            Some(before) => {
                let same = match is_dir(text) && is_dir(before) {
                    true => without_time(text) == without_time(before),
                    false => text == before,
                };
                if !same {
                    changed.insert(path.clone(), 'C');
                }
            }
        }
    }
    for path in old.keys().filter(|path| !new.contains_key(*path)) {
        // Only the top of what is gone, and only where a directory still is.
        let parent = path.parent().unwrap();
        if new.get(parent).is_some_and(|text| is_dir(text)) {
            changed.insert(path.clone(), 'D');
        }
    }
    for path in changed.clone().keys() {
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            changed.entry(parent.to_owned()).or_insert('C');
        }
    }
    changed.remove(Path::new(""));
    // By components, as a walk finds them.
    let mut lines: Vec<_> = changed.into_iter().collect();
    lines.sort_by(|(a, _), (b, _)| a.components().cmp(b.components()));
    lines
        .iter()
        .map(|(path, kind)| format!("{kind} /{}", path.to_string_lossy()))
        .collect()
}

#[test]
fn random_changes_match_a_comparison_of_whole_trees() {
    let shape = Shape {
        odd_names: false,
        xattrs: false,
        ..Shape::ALL
    };
    for seed in 0..25 {
        let mut random = Random::new(seed);
        let redirects: &[&str] = if seed % 2 == 0 { &["redirect_dir=on"] } else { &[] };
        let container = Container::new(layers(&mut random, shape), redirects);
        let old = seen(&container.at(""));
        for _ in 0..random.below(40) {
            act(&mut random, &container.at(""));
        }
        let new = seen(&container.at(""));
        // Link counts are not compared.
        let plain = |tree: &BTreeMap<PathBuf, String>| {
            let strip = |text: &String| text.split(" linked ").next().unwrap().to_owned();
            tree.iter()
                .map(|(path, text)| (path.clone(), strip(text)))
                .collect()
        };
        assert_eq!(
            container.changes(),
            compare_trees(&plain(&old), &plain(&new)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_tree_too_deep_to_name_is_an_error_and_no_crash() {
    let container = Container::new(vec![base()], &[]);
    let upper = Dir::open_ambient(container.temp.path().join("upper")).unwrap();
    let mut at = upper.try_clone().unwrap();
    let name = "d".repeat(200);
    for _ in 0..30 {
        at.mkdir(&name, rustix::fs::Mode::RWXU).unwrap();
        at = at.open_dir(&name).unwrap();
    }
    let lowers: Vec<Dir> = container.layers.iter().map(|layer| layer.dir()).collect();
    let error = changes(&upper, &lowers).unwrap_err();
    assert!(chain(&error).contains("too long"), "{}", chain(&error));
    let error = image::pack::pack(&upper, std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("longer path than a layer can hold"));
    // What removes the scratch directory may not be able to remove this.
    upper.remove_tree(&name).unwrap();
}
