//! The image `host`: the machine's own root file system as the read-only lower layer; and `--rootfs`, which is the same
//! with another directory.
//!
//! The overlay is given `/` itself. The kernel makes a private, read-only, non-recursive clone of that one mount, so
//! that whatever else is mounted on the machine does not appear: its mount points are the bare directories below.
//!
//! The store commonly lies beneath `/`, on the same file system, and the upper directory with it. The kernel allows
//! that (since 5.12), but answers ELOOP to a lookup that meets an overlay's own upper or work directory through a
//! lower layer. So the store, and the state directory, which is as private, are hidden: their place in the upper
//! directory holds a whiteout. The directories on the way there are copied up as the kernel would, with owner, mode,
//! times and attributes, so that neither the view nor `diff` shows them as changed. A whiteout in a lower layer of
//! its own would be neater, but the kernel refuses one lower directory beneath another.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mount::table::Entry;
use rustix::fs::{FileType, Mode};
use sys::Dir;

/// A file system that is mounted on the machine and does not appear in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Where it is mounted, or where the hidden directory lies.
    pub path: PathBuf,
    /// Its type; `hidden` for a directory of strata's own.
    pub kind: String,
}

/// What of a directory of the machine appears in the view and what does not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostView {
    /// `/`, or the directory that is viewed.
    base: PathBuf,
    /// Directories of strata's own that it holds, relative to it; none lies in another.
    hidden: Vec<PathBuf>,
    /// Everything that is left out, outermost, sorted.
    pub(super) left_out: Vec<LeftOut>,
}

/// Works out the view of `base`; `private` are the directories to hide. All paths are canonical.
pub(super) fn view(mounts: &[Entry], base: &Path, private: &[&Path]) -> HostView {
    let mut hidden: Vec<PathBuf> = private
        .iter()
        .filter_map(|path| within(mounts, base, path))
        .collect();
    hidden.sort();
    hidden.dedup_by(|inner, outer| inner.starts_with(&*outer));
    let ours = hidden.iter().map(|path| LeftOut {
        path: base.join(path),
        kind: "hidden".to_owned(),
    });
    let others = mounts
        .iter()
        .filter(|m| m.target != base && m.target.starts_with(base));
    let others = others.map(|m| LeftOut {
        path: m.target.clone(),
        kind: m.kind.clone(),
    });
    let mut left_out: Vec<LeftOut> = others.chain(ours).collect();
    // What lies in something that is left out goes with it; several mounts at one place count once.
    left_out.sort_by(|a, b| a.path.cmp(&b.path));
    left_out.dedup_by(|inner, kept| inner.path.starts_with(&kept.path));
    HostView {
        base: base.to_owned(),
        hidden,
        left_out,
    }
}

/// Where the directory `path` is found below `base` when nothing that is mounted there is looked at; `None` when it
/// is not. A mount of another part of the same file system (a bind) is seen through.
fn within(mounts: &[Entry], base: &Path, path: &Path) -> Option<PathBuf> {
    let (base, path) = (place(mounts, base)?, place(mounts, path)?);
    if base.0 != path.0 {
        return None;
    }
    let relative = path.1.strip_prefix(&base.1).ok()?;
    (relative != Path::new("")).then(|| relative.to_owned())
}

/// The file system that holds `path`, and where in it.
fn place<'a>(mounts: &'a [Entry], path: &Path) -> Option<(&'a str, PathBuf)> {
    // The longest mount point that the path lies beneath; of several at one place the last covers the others.
    let holder = mounts
        .iter()
        .filter(|m| path.starts_with(&m.target))
        .max_by_key(|m| m.target.components().count())?;
    Some((
        &holder.device,
        holder.root.join(path.strip_prefix(&holder.target).ok()?),
    ))
}

impl HostView {
    /// The hidden directories, as paths in the container.
    pub(super) fn hidden(&self) -> impl Iterator<Item = PathBuf> {
        self.hidden.iter().map(|path| Path::new("/").join(path))
    }

    /// Prepares the empty upper directory: a whiteout for each hidden directory.
    ///
    /// # Errors
    /// The errno of the first call that failed, among them that of a directory which vanished meanwhile.
    pub(super) fn prepare(&self, upper: &Dir) -> io::Result<()> {
        if self.hidden.is_empty() {
            // The store gave the upper directory its attributes.
            return Ok(());
        }
        let host = Dir::open_ambient(&self.base)?;
        for path in &self.hidden {
            hide(&host, upper, path)?;
        }
        copy_attributes(&host, upper)
    }
}

/// Puts a whiteout at `path` of the upper directory, with copies of the directories above it.
fn hide(host: &Dir, upper: &Dir, path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parents: Vec<&Path> = path.ancestors().skip(1).filter(|p| *p != Path::new("")).collect();
    for parent in parents.iter().rev() {
        upper.mkdir_all(parent, Mode::RWXU)?;
    }
    let place = upper.open_dir(path.parent().unwrap_or(Path::new("")))?;
    place.mknod(name, FileType::CharacterDevice, Mode::empty(), 0)?;
    // Innermost first: what is made in a directory changes its times.
    for parent in parents {
        copy_attributes(&host.open_dir(parent)?, &upper.open_dir(parent)?)?;
    }
    Ok(())
}

/// As the kernel's own copying up has it: an overlay's attributes mean something about the layer they stand in, not
/// about the directory.
fn copy_attributes(from: &Dir, to: &Dir) -> io::Result<()> {
    sys::attributes::copy(from, to, |name| {
        let own = [&b"trusted.overlay."[..], b"user.overlay."];
        !own.iter().any(|prefix| name.as_bytes().starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(device: &str, root: &str, target: &str, kind: &str) -> Entry {
        Entry {
            id: 0,
            parent: 0,
            device: device.to_owned(),
            root: root.into(),
            target: target.into(),
            options: String::new(),
            kind: kind.to_owned(),
            source: "".into(),
            super_options: "".into(),
        }
    }

    #[test]
    fn the_store_is_hidden_where_the_root_file_system_holds_it() {
        let mounts = [
            mount("8:1", "/", "/", "ext4"),
            mount("0:5", "/", "/proc", "proc"),
            mount("0:6", "/", "/proc/sys/fs/binfmt_misc", "binfmt_misc"),
            mount("0:9", "/", "/run", "tmpfs"),
        ];
        let view = view(
            &mounts,
            "/".as_ref(),
            &["/var/lib/strata".as_ref(), "/run/strata".as_ref()],
        );
        assert_eq!(view.hidden, [PathBuf::from("var/lib/strata")]);
        let kinds: Vec<_> = view
            .left_out
            .iter()
            .map(|l| (l.path.to_str().unwrap(), l.kind.as_str()))
            .collect();
        assert_eq!(
            kinds,
            [
                ("/proc", "proc"),
                ("/run", "tmpfs"),
                ("/var/lib/strata", "hidden")
            ]
        );
    }

    #[test]
    fn a_bind_of_the_same_file_system_is_seen_through() {
        let mounts = [
            mount("8:1", "/@", "/", "btrfs"),
            mount("8:1", "/@/data/strata", "/var/lib/strata", "btrfs"),
            mount("8:1", "/@home", "/home", "btrfs"),
        ];
        assert_eq!(
            within(&mounts, "/".as_ref(), "/var/lib/strata".as_ref()),
            Some("data/strata".into())
        );
        assert_eq!(within(&mounts, "/".as_ref(), "/home/strata".as_ref()), None);
    }

    #[test]
    fn a_directory_in_another_is_hidden_with_it() {
        let mounts = [mount("8:1", "/", "/", "ext4")];
        let view = view(
            &mounts,
            "/".as_ref(),
            &["/srv/s/state".as_ref(), "/srv/s".as_ref(), "/srv/s-2".as_ref()],
        );
        assert_eq!(view.hidden, [PathBuf::from("srv/s"), PathBuf::from("srv/s-2")]);
    }

    #[test]
    fn a_directory_is_seen_without_what_is_mounted_in_it() {
        let mounts = [
            mount("8:1", "/", "/", "ext4"),
            mount("0:7", "/", "/srv/x", "tmpfs"),
            mount("0:8", "/", "/y", "tmpfs"),
        ];
        let view = view(&mounts, "/srv".as_ref(), &["/srv/s".as_ref(), "/var".as_ref()]);
        assert_eq!(view.hidden, [PathBuf::from("s")]);
        let paths: Vec<_> = view.left_out.iter().map(|l| l.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/srv/s", "/srv/x"]);
    }

    #[test]
    fn a_mount_that_covers_another_counts() {
        let mounts = [
            mount("8:1", "/", "/", "ext4"),
            mount("8:1", "/x", "/var/lib/strata", "ext4"),
            mount("0:7", "/", "/var/lib/strata", "tmpfs"),
        ];
        assert_eq!(within(&mounts, "/".as_ref(), "/var/lib/strata".as_ref()), None);
    }
}
