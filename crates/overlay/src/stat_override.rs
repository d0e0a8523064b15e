//! Owner and mode in an attribute, where the file system cannot keep them: as `fuse-overlayfs` (`xattr_permissions=`) and
//! podman (`force_mask`) have it. The kernel's overlay knows nothing of it.
//!
//! The value is `UID:GID:MODE`, the mode in octal, of which the permission bits count; what may follow a further colon
//! (a type of file) is read past.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::Stat;

/// Names of the attribute; a layer has the first that its root has.
pub const NAMES: [&str; 3] = [PRIVILEGED, CONTAINERS, "user.fuseoverlayfs.override_stat"];

/// That which only a privileged process can set.
pub const PRIVILEGED: &str = "security.fuseoverlayfs.override_stat";

/// That which anybody can set, of regular files and directories.
pub const CONTAINERS: &str = "user.containers.override_stat";

/// What an attribute says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Override {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits, 12 of them.
    pub mode: u32,
}

impl Override {
    /// Reads a value; `None` for one that is none.
    pub fn parse(value: &[u8]) -> Option<Override> {
        let mut fields = std::str::from_utf8(value).ok()?.splitn(4, ':');
        let (uid, gid, mode) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Override {
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            mode: u32::from_str_radix(mode, 8).ok()? & 0o7777,
        })
    }

    /// The value for it.
    pub fn encode(self) -> String {
        format!("{}:{}:{:o}", self.uid, self.gid, self.mode)
    }

    /// What a status shows.
    pub fn of(stat: &Stat) -> Override {
        Override {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
        }
    }

    /// Puts it into a status.
    pub fn apply(self, stat: &mut Stat) {
        (stat.st_uid, stat.st_gid) = (self.uid, self.gid);
        stat.st_mode = stat.st_mode & !0o7777 | self.mode;
    }
}

/// Whether an attribute is one that `fuse-overlayfs` keeps to itself.
pub fn is_foreign(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let prefixes = [&b"user.fuseoverlayfs."[..], b"security.fuseoverlayfs."];
    prefixes.iter().any(|prefix| name.starts_with(prefix)) || name == CONTAINERS.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let of = |uid, gid, mode| Some(Override { uid, gid, mode });
        assert_eq!(Override::parse(b"5:6:4755"), of(5, 6, 0o4755));
        assert_eq!(Override::parse(b"0:0:100644"), of(0, 0, 0o644));
        assert_eq!(Override::parse(b"1000:1011:0644:char-1-3"), of(1000, 1011, 0o644));
        for bad in [&b""[..], b"1:2", b"1:2:9", b"-1:2:7", b"1:2:\xff", b"a:b:c"] {
            assert_eq!(Override::parse(bad), None);
        }
        assert_eq!(of(5, 6, 0o1750).unwrap().encode(), "5:6:1750");
    }

    #[test]
    fn names_of_others() {
        for name in NAMES.iter().chain(&["user.fuseoverlayfs.origin"]) {
            assert!(is_foreign(OsStr::new(name)));
        }
        assert!(!is_foreign(OsStr::new("user.containers.else")) && !is_foreign(OsStr::new("user.mine")));
    }
}
