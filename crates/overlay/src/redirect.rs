//! The attribute `redirect`: where the lower part of a renamed directory, or the data of a renamed metadata-only
//! file, lies in the layers below.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest value that is written (`redirect_max`), in bytes.
pub const MAX: usize = 256;

/// A decoded redirect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Redirect {
    /// Another name in the same merged directory.
    Sibling(OsString),
    /// A path from the root of the overlay, kept here without its leading `/`.
    FromRoot(PathBuf),
}

impl Redirect {
    /// Decodes a value as the kernel does; `None` for one that it calls invalid: empty, a relative one with a `/`,
    /// or an absolute one with an empty component. One with `.` or `..` as a component, which the kernel's lookup
    /// refuses later, is refused here.
    pub fn parse(value: &[u8]) -> Option<Redirect> {
        // The kernel copies the value as a C string.
        let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
        let plain = |component: &[u8]| !component.is_empty() && component != b"." && component != b"..";
        match value.strip_prefix(b"/") {
            Some(path) => path
                .split(|byte| *byte == b'/')
                .all(plain)
                .then(|| Redirect::FromRoot(Path::new(OsStr::from_bytes(path)).to_owned())),
            None => (plain(value) && !value.contains(&b'/'))
                .then(|| Redirect::Sibling(OsStr::from_bytes(value).to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let from_root = |path: &str| Some(Redirect::FromRoot(PathBuf::from(path)));
        let cases = [
            (&b"name"[..], Some(Redirect::Sibling("name".into()))),
            (b"/a/b", from_root("a/b")),
            (b"/a", from_root("a")),
            (b"", None),
            (b"/", None),
            (b"a/b", None),
            (b"/a//b", None),
            (b"/a/", None),
            (b"..", None),
            (b"/a/../b", None),
            (b"a\0b", Some(Redirect::Sibling("a".into()))),
        ];
        for (value, expected) in cases {
            assert_eq!(
                Redirect::parse(value),
                expected,
                "{:?}",
                value.escape_ascii().to_string()
            );
        }
    }
}
