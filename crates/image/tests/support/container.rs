//! A container's overlay on layers of our own, and random changes in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use image::changes::changes;
use mount::Mount;
use sys::Dir;
use testkit::random::Random;

use super::{Layer, chain};

/// Layers with a writable directory on top, mounted until dropped.
pub struct Container {
    pub temp: tempfile::TempDir,
    pub layers: Vec<Layer>,
}

impl Container {
    /// `layers` come base first.
    pub fn new(layers: Vec<Layer>, options: &[&str]) -> Container {
        let temp = tempfile::tempdir().unwrap();
        for name in ["upper", "work", "merged"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        let paths: Vec<PathBuf> = layers.iter().rev().map(|layer| layer.path()).collect();
        let lowers: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let (upper, work) = (temp.path().join("upper"), temp.path().join("work"));
        // Volatile: unmounting must not wait for the whole disk.
        let mount = Mount::overlay(&lowers, Some((&upper, &work)), &[options, &["volatile"]].concat());
        mount::attach(&mount, &temp.path().join("merged")).expect("mounting an overlay needs root");
        Container { temp, layers }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.temp.path().join("merged").join(path)
    }

    pub fn upper(&self) -> Dir {
        Dir::open_ambient(self.temp.path().join("upper")).unwrap()
    }

    /// Topmost first.
    pub fn lowers(&self) -> Vec<Dir> {
        self.layers.iter().rev().map(|layer| layer.dir()).collect()
    }

    /// As `docker diff` prints them.
    pub fn changes(&self) -> Vec<String> {
        let changes =
            changes(&self.upper(), &self.lowers()).unwrap_or_else(|error| panic!("{}", chain(&error)));
        changes
            .iter()
            .map(|change| format!("{} {}", change.kind, change.path.to_string_lossy()))
            .collect()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = mount::detach(&self.at(""));
    }
}

/// Does something to a random path; most of it fails, which is as good.
pub fn act(random: &mut Random, root: &Path) {
    let path = |random: &mut Random| {
        let mut path = root.to_owned();
        for _ in 0..=random.below(2) {
            path.push(random.choose(&["a", "b", "c", "d", ".e"]));
        }
        path
    };
    let (one, two) = (path(random), path(random));
    let _ = match random.below(10) {
        0 => fs::remove_file(&one),
        1 => fs::remove_dir_all(&one),
        2 => fs::create_dir(&one),
        3 if one.is_file() || one.symlink_metadata().is_err() => fs::write(&one, random.number().to_string()),
        4 => symlink("target", &one),
        5 => fs::rename(&one, &two),
        6 if one.is_file() => {
            fs::set_permissions(&one, fs::Permissions::from_mode(0o600 + random.below(8) as u32))
        }
        7 if one.is_dir() => {
            fs::set_permissions(&one, fs::Permissions::from_mode(0o700 + random.below(8) as u32))
        }
        8 if one.is_file() && !two.exists() => fs::copy(&one, &two).map(drop),
        _ => Ok(()),
    };
}
