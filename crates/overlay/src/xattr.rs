//! Names of the overlay's own extended attributes, and the escape that lets an overlay's layers lie on an overlay.
//!
//! Source: `Documentation/filesystems/overlayfs.rst`, "Nesting overlayfs mounts", and what the kernel does.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use sys::xattr;

/// `y`: the directory hides everything below it; `x`: it may hold whiteouts of the attribute kind.
pub const OPAQUE: &str = "opaque";
/// Present on an empty regular file in a directory whose [`OPAQUE`] is `x`: a whiteout.
pub const WHITEOUT: &str = "whiteout";
/// Where the lower part of a directory, or the data of a metadata-only file, lies in the layers below.
pub const REDIRECT: &str = "redirect";
/// The file holds metadata only; its data is in a layer below.
pub const METACOPY: &str = "metacopy";
/// File handle of what was copied up.
pub const ORIGIN: &str = "origin";
/// File handle of the upper directory, on an index entry.
pub const UPPER: &str = "upper";
/// `y`: the directory may hold entries that were copied up.
pub const IMPURE: &str = "impure";
/// Link count relative to the upper or the lower inode.
pub const NLINK: &str = "nlink";
/// Inode flags carried across a copy-up.
pub const PROTATTR: &str = "protattr";
/// Identity of the overlay, on the root of the upper directory.
pub const UUID: &str = "uuid";

/// What every name of the overlay's own begins with; chosen by the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Prefix {
    /// `trusted.overlay.`: the default; needs `CAP_SYS_ADMIN` in the initial user namespace.
    #[default]
    Trusted,
    /// `user.overlay.`: mounts with the option `userxattr`, which is what an unprivileged user can have.
    User,
}

/// Between the prefix and the rest of a name that is not meant for this overlay but for one on top of it.
const ESCAPE: &[u8] = b"overlay.";

impl Prefix {
    /// The prefix, with its final dot.
    pub const fn as_str(self) -> &'static str {
        match self {
            Prefix::Trusted => "trusted.overlay.",
            Prefix::User => "user.overlay.",
        }
    }

    /// The full name of one of this module's attributes.
    pub fn name(self, attribute: &str) -> String {
        format!("{}{attribute}", self.as_str())
    }

    /// What follows the prefix in `name`, or `None` for a name that is not the overlay's.
    fn strip(self, name: &OsStr) -> Option<&[u8]> {
        name.as_bytes().strip_prefix(self.as_str().as_bytes())
    }

    /// Whether the overlay keeps an attribute of this name to itself: it means something to it, or would to a
    /// later kernel, and the merged view does not show it.
    pub fn is_private(self, name: &OsStr) -> bool {
        self.strip(name).is_some_and(|rest| !rest.starts_with(ESCAPE))
    }

    /// The name under which a layer must store an attribute so that the merged view shows it as `name`.
    ///
    /// Only names with the overlay's own prefix change: `trusted.overlay.opaque` is stored as
    /// `trusted.overlay.overlay.opaque`, and so on for every further nesting.
    pub fn to_layer(self, name: &OsStr) -> Cow<'_, OsStr> {
        match self.strip(name) {
            None => Cow::Borrowed(name),
            Some(rest) => Cow::Owned(OsString::from_vec(
                [self.as_str().as_bytes(), ESCAPE, rest].concat(),
            )),
        }
    }

    /// The name under which the merged view shows an attribute that a layer stores as `name`; `None` for a
    /// private one. The reverse of [`Prefix::to_layer`].
    pub fn to_view(self, name: &OsStr) -> Option<Cow<'_, OsStr>> {
        match self.strip(name) {
            None => Some(Cow::Borrowed(name)),
            Some(rest) => rest
                .strip_prefix(ESCAPE)
                .map(|rest| Cow::Owned(OsString::from_vec([self.as_str().as_bytes(), rest].concat()))),
        }
    }

    /// Reads one of the overlay's own attributes of an open file or directory.
    pub fn get(self, fd: BorrowedFd<'_>, attribute: &str) -> io::Result<Option<Vec<u8>>> {
        xattr::get(fd, self.name(attribute))
    }

    /// Sets one of the overlay's own attributes of an open file or directory.
    pub fn set(self, fd: BorrowedFd<'_>, attribute: &str, value: &[u8]) -> io::Result<()> {
        xattr::set(fd, self.name(attribute), value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_is_its_own_inverse_at_every_nesting() {
        for prefix in [Prefix::Trusted, Prefix::User] {
            for rest in ["opaque", "overlay.opaque", "overlay.overlay.x", "", "overlay."] {
                let name = OsString::from(prefix.name(rest));
                let stored = prefix.to_layer(&name);
                assert!(!prefix.is_private(&stored), "{stored:?} would mean something");
                assert_eq!(prefix.to_view(&stored).as_deref(), Some(name.as_os_str()));
            }
        }
    }

    #[test]
    fn only_the_mounts_own_prefix_is_private() {
        let trusted = Prefix::Trusted;
        assert!(trusted.is_private(OsStr::new("trusted.overlay.anything")));
        assert!(!trusted.is_private(OsStr::new("trusted.overlay.overlay.opaque")));
        assert!(!trusted.is_private(OsStr::new("trusted.overlayfs")));
        assert!(!trusted.is_private(OsStr::new("user.overlay.opaque")));
        assert!(Prefix::User.is_private(OsStr::new("user.overlay.opaque")));
        assert!(!Prefix::User.is_private(OsStr::new("trusted.overlay.opaque")));
        assert_eq!(trusted.to_view(OsStr::new("trusted.overlay.redirect")), None);
        assert_eq!(
            trusted.to_layer(OsStr::new("user.overlay.x")),
            OsStr::new("user.overlay.x")
        );
    }
}
