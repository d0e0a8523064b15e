//! [`Scene`]: layers made by hand, mounted by the driver that is judged, or by the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FileType;
use tempfile::TempDir;

use super::driver::{Driver, Drivers, Layers, Refused};
use super::tree::{self, Thing, Tree};
use crate::files;

/// An overlay of a test: its layers, and where it is mounted. When the value goes it is unmounted and removed, and the
/// lower directories must be as they were before the first mount, in content and every attribute, whatever the test did.
#[derive(Debug)]
pub struct Scene {
    drivers: Drivers,
    mounted: Option<Driver>,
    dir: TempDir,
    /// Bottom first, as an image's layers are numbered.
    lowers: Vec<PathBuf>,
    /// Upper and work directory.
    writable: Option<(PathBuf, PathBuf)>,
    options: Vec<String>,
    before: Vec<Seen>,
}

/// A lower tree with what only a write changes: inode numbers and change times.
type Seen = (BTreeMap<PathBuf, Thing>, BTreeMap<PathBuf, (u64, i64, i64)>);

impl Scene {
    /// No layer yet but an empty upper directory.
    pub fn new(drivers: &Drivers) -> Scene {
        let dir = tempfile::Builder::new()
            .prefix("strata-overlay-")
            .tempdir()
            .expect("a temporary directory");
        // Others than root shall be able to reach the mount.
        files::chmod(dir.path(), 0o755).expect("our own directory");
        files::mkdir(dir.path().join("merged"), 0o755).expect("our own directory");
        let scene = Scene {
            drivers: drivers.clone(),
            mounted: None,
            dir,
            lowers: Vec::new(),
            writable: None,
            options: match super::user_namespace::is_inside() {
                true => vec!["userxattr".into()],
                false => Vec::new(),
            },
            before: Vec::new(),
        };
        let here = scene.dir.path().to_owned();
        scene.writable_in(&here)
    }

    /// A scene of one lower directory, mounted.
    pub fn mounted(drivers: &Drivers, fill: impl FnOnce(Tree) -> Tree) -> Scene {
        Scene::new(drivers).lower(fill).mount()
    }

    /// As [`Scene::mounted`], with an option.
    pub fn mounted_with(drivers: &Drivers, option: &str, fill: impl FnOnce(Tree) -> Tree) -> Scene {
        Scene::new(drivers).lower(fill).option(option).mount()
    }

    /// One more lower directory, on top of those before it.
    pub fn lower(self, fill: impl FnOnce(Tree) -> Tree) -> Scene {
        let here = self.dir.path().to_owned();
        self.lower_in(&here, fill)
    }

    /// One more lower directory, made in `place`.
    pub fn lower_in(mut self, place: &Path, fill: impl FnOnce(Tree) -> Tree) -> Scene {
        let path = place.join(format!("lower{}", self.lowers.len()));
        files::mkdir(&path, 0o755).expect("our own directory");
        fill(Tree::new(&path));
        self.lowers.push(path);
        self
    }

    /// Upper and work directory in `place`, another than beside the lower ones.
    pub fn writable_in(mut self, place: &Path) -> Scene {
        let (upper, work) = (place.join("upper"), place.join("work"));
        files::mkdir(&upper, 0o755).expect("our own directory");
        files::mkdir(&work, 0o755).expect("our own directory");
        self.writable = Some((upper, work));
        self
    }

    /// Fills the upper directory before the mount.
    pub fn with_upper(self, fill: impl FnOnce(Tree) -> Tree) -> Scene {
        fill(Tree::new(self.upper("")));
        self
    }

    /// No upper directory.
    pub fn read_only(mut self) -> Scene {
        self.writable = None;
        self
    }

    /// A mount option.
    pub fn option(mut self, option: &str) -> Scene {
        self.options.push(option.into());
        self
    }

    /// Mounts by the driver that is judged.
    #[track_caller]
    pub fn mount(mut self) -> Scene {
        self.remember_lowers();
        let driver = self.drivers.judged.clone();
        self.mount_by(driver);
        self
    }

    /// Tries to mount where nothing is mounted; what is refused leaves nothing mounted.
    pub fn try_mount(&mut self) -> Result<(), Refused> {
        self.remember_lowers();
        let driver = self.drivers.judged.clone();
        driver.mount(&self.layers(), &self.at(""))?;
        self.mounted = Some(driver);
        Ok(())
    }

    /// Unmounts, and mounts again.
    #[track_caller]
    pub fn remount(&mut self) {
        self.unmount();
        let driver = self.drivers.judged.clone();
        self.mount_by(driver);
    }

    /// Mounts again what was unmounted.
    #[track_caller]
    pub fn remount_unmounted(&mut self) {
        let driver = self.drivers.judged.clone();
        self.mount_by(driver);
    }

    /// Unmounts, and mounts by the other driver.
    #[track_caller]
    pub fn remount_by_other(&mut self) {
        self.unmount();
        let driver = self.drivers.other.clone();
        self.mount_by(driver);
    }

    /// Unmounts; what is still busy fails the test.
    #[track_caller]
    pub fn unmount(&mut self) {
        let driver = self.mounted.take().expect("mounted");
        if let Err(error) = driver.unmount(&self.at("")) {
            self.detach();
            panic!("{error}");
        }
    }

    /// A program that another test starts has, from fork to exec, a copy of the descriptor that an overlay was made with, and
    /// the file system does not end before that: "busy" is believed only when it lasts.
    #[track_caller]
    fn mount_by(&mut self, driver: Driver) {
        assert!(self.mounted.is_none(), "mounted already");
        let patience = Instant::now() + Duration::from_secs(5);
        while let Err(error) = driver.mount(&self.layers(), &self.at("")) {
            let busy = error.0.to_lowercase().contains("busy");
            assert!(busy && Instant::now() < patience, "{error}");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.mounted = Some(driver);
    }

    /// What is given to the driver.
    pub fn layers(&self) -> Layers {
        Layers {
            lower: self.lowers.iter().rev().cloned().collect(),
            writable: self.writable.clone(),
            options: self.options.clone(),
        }
    }

    /// Who is judged, for a case whose result is a listed exception.
    pub fn judged(&self) -> &Driver {
        &self.drivers.judged
    }

    /// A path in the mount; the mount point itself for an empty one.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        join(&self.dir.path().join("merged"), path.as_ref())
    }

    /// A path in the upper directory.
    pub fn upper(&self, path: impl AsRef<Path>) -> PathBuf {
        join(
            &self.writable.as_ref().expect("a writable overlay").0,
            path.as_ref(),
        )
    }

    /// A path in the work directory.
    pub fn work(&self, path: impl AsRef<Path>) -> PathBuf {
        join(
            &self.writable.as_ref().expect("a writable overlay").1,
            path.as_ref(),
        )
    }

    /// A path in a lower directory; 0 is the bottom.
    pub fn lower_at(&self, number: usize, path: impl AsRef<Path>) -> PathBuf {
        join(&self.lowers[number], path.as_ref())
    }

    /// A path beside the layers, in a plain directory.
    pub fn beside(&self, path: impl AsRef<Path>) -> PathBuf {
        join(self.dir.path(), path.as_ref())
    }

    /// Whether the upper directory holds a whiteout there.
    pub fn is_whiteout(&self, path: impl AsRef<Path>) -> bool {
        files::lstat(self.upper(path)).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
        })
    }

    /// Whether the upper directory holds an opaque directory there.
    pub fn is_opaque(&self, path: impl AsRef<Path>) -> bool {
        files::get_xattr(self.upper(path), &super::own("opaque")).is_ok_and(|value| value == b"y")
    }

    /// Everything that the mount shows.
    #[track_caller]
    pub fn look(&self) -> BTreeMap<PathBuf, Thing> {
        tree::look(&self.at("")).expect("a mount can be read")
    }

    /// The other driver shows the same tree, and so does the judged one after it.
    #[track_caller]
    pub fn same_after_remounts(&mut self) {
        let before = self.look();
        for by_other in [true, false] {
            match by_other {
                true => self.remount_by_other(),
                false => self.remount(),
            }
            let differ = tree::differences(&before, &self.look());
            assert!(
                differ.is_empty(),
                "after a remount (by the other driver: {by_other}): {differ:#?}"
            );
        }
    }

    fn see_lowers(&self) -> Vec<Seen> {
        let see = |lower: &PathBuf| {
            let things = tree::look(lower).expect("our own directory");
            let stats = things.keys().map(|path| {
                let stat = files::lstat(join(lower, path)).expect("just seen");
                (
                    path.clone(),
                    (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec as i64),
                )
            });
            let stats = stats.collect();
            (things, stats)
        };
        self.lowers.iter().map(see).collect()
    }

    fn remember_lowers(&mut self) {
        if self.before.is_empty() {
            self.before = self.see_lowers();
        }
    }

    fn detach(&mut self) {
        let _ = mount::detach(&self.at(""));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if let Some(driver) = self.mounted.take()
                && driver.unmount(&self.at("")).is_err()
            {
                self.detach();
            }
            return;
        }
        if self.mounted.is_some() {
            self.unmount();
        }
        let after = self.see_lowers();
        for (number, (before, after)) in self.before.iter().zip(&after).enumerate() {
            let differ = tree::differences(&before.0, &after.0);
            assert!(
                differ.is_empty(),
                "lower directory {number} was written to: {differ:#?}"
            );
            assert_eq!(before.1, after.1, "lower directory {number} was touched");
        }
    }
}

fn join(dir: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        dir.to_owned()
    } else {
        dir.join(path)
    }
}
