//! Which of the store's directories something stands on: mounts of anybody's, and what servers of ours hold.

use std::fs::File;
use std::io;
use std::path::Path;

use mount::table;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use store::{Info, Store};

/// What was mounted when it was looked. What cannot be looked at counts as mounted: nothing is removed by mistake.
pub(crate) struct Mounted {
    entries: Option<Vec<table::Entry>>,
}

impl Mounted {
    pub(crate) fn now() -> Mounted {
        Mounted {
            entries: table::read().ok(),
        }
    }

    /// Whether something stands on a snapshot. A view of something has no directory of its own: it is taken to be mounted
    /// where what it shows is.
    pub(crate) fn has(&self, store: &Store, ns: &str, info: &Info) -> bool {
        let shown = || {
            let parent = info.parent.as_ref()?;
            store.stat(ns, parent).ok()?.n
        };
        info.n.or_else(shown).is_some_and(|n| {
            let path = store.layer_path(n);
            let is_shown = |entries: &Vec<table::Entry>| entries.iter().any(|entry| shows(entry, &path, n));
            is_served(&path) || self.entries.as_ref().is_none_or(is_shown)
        })
    }
}

/// A server of ours locks what it has mounted.
fn is_served(path: &Path) -> bool {
    match File::open(path) {
        Ok(dir) => flock(&dir, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn shows(entry: &table::Entry, path: &Path, n: u64) -> bool {
    let root = entry.root.strip_prefix("/").unwrap_or(&entry.root);
    if root.ends_with(format!("snapshots/{n}/fs")) && path.ends_with(root) {
        return true;
    }
    // containerd writes directories that have much in common from there on alone, where they are many.
    let short = format!("{n}/fs");
    let whole = path.as_os_str().as_encoded_bytes();
    let options = entry.super_options.as_encoded_bytes();
    options.windows(whole.len()).any(|part| part == whole)
        || options
            .split(|byte| b",:=".contains(byte))
            .any(|part| part == short.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_shows_its_directories_written_whole_or_short() {
        let entry = |root: &str, options: &str| table::Entry {
            id: 1,
            parent: 0,
            device: String::new(),
            root: root.into(),
            target: "/t".into(),
            options: String::new(),
            kind: String::new(),
            source: "overlay".into(),
            super_options: options.into(),
        };
        let has = |entry: table::Entry, n: u64| {
            let path = format!("/s/snapshots/{n}/fs");
            shows(&entry, Path::new(&path), n)
        };
        let long = || {
            entry(
                "/",
                "rw,lowerdir=/s/snapshots/2/fs:/s/snapshots/13/fs,upperdir=/s/snapshots/4/fs",
            )
        };
        assert!(has(long(), 2) && has(long(), 13) && has(long(), 4));
        assert!(!has(long(), 1) && !has(long(), 3));
        let short = || entry("/", "ro,lowerdir=2/fs:13/fs,index=off");
        assert!(has(short(), 2) && has(short(), 13) && !has(short(), 3));
        let bind = || entry("/snapshots/7/fs", "rw");
        assert!(has(bind(), 7) && !has(bind(), 17));
    }

    #[test]
    fn what_cannot_be_looked_at_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(&temp.path().join("store")).unwrap();
        store.prepare("ns", "key", None, &Default::default()).unwrap();
        let info = store.stat("ns", "key").unwrap();
        let has = |entries| Mounted { entries }.has(&store, "ns", &info);
        assert!(has(None));
        assert!(!has(Some(Vec::new())));
        let path = store.layer_path(info.n.unwrap());
        std::fs::remove_dir(&path).unwrap();
        assert!(!is_served(&path));
        // Something else than a directory that is not there is in the way.
        std::os::unix::fs::symlink("fs", &path).unwrap();
        assert!(is_served(&path));
    }
}
