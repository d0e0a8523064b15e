//! What source and destination of a copy mean: docker's rules, which are those of `cp -a` with a few differences.
//!
//! | source | destination | copied as |
//! |---|---|---|
//! | file | missing | that name; a missing one that ends with `/` is an error |
//! | file | file | that name |
//! | file | directory | its own name in it |
//! | directory | missing | that name |
//! | directory | file | an error |
//! | directory | directory | its own name in it |
//! | directory, ending with `/.` | directory | its contents |

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use sys::Dir;

use super::CopyError;
use super::root::{Root, Seen};

/// Where something goes.
pub(super) struct Destination {
    /// The directory.
    pub(super) into: Dir,
    /// Its name there; `.` for the contents of a directory.
    pub(super) called: OsString,
}

impl Destination {
    /// Where `what`, found at the path `source`, goes when it is copied to a path.
    pub(super) fn of(what: &Seen, source: &Path, to: &Root, path: &Path) -> Result<Destination, CopyError> {
        let is_dir = matches!(what, Seen::Dir(_));
        let given = || path.to_owned();
        match to.look(path, true)? {
            Seen::Dir(into) => Ok(Destination {
                into,
                called: match (is_dir && says_contents(source), base_name(source)) {
                    (false, Some(name)) => name,
                    _ => ".".into(),
                },
            }),
            Seen::File { .. } if is_dir => Err(CopyError::ToFile { path: given() }),
            Seen::File { .. } if says_directory(path) => Err(CopyError::NoDirectory { path: given() }),
            Seen::File { dir, name } => Ok(Destination {
                into: dir,
                called: name,
            }),
            Seen::Missing { .. } if !is_dir && says_directory(path) => {
                Err(CopyError::Missing { path: given() })
            }
            Seen::Missing { dir: Some(dir), name } => Ok(Destination {
                into: dir,
                called: name,
            }),
            Seen::Missing { dir: None, .. } => Err(CopyError::Missing {
                path: path.parent().unwrap_or(path).to_owned(),
            }),
        }
    }
}

/// Whether a path ends as that of a directory does: with `/` or `/.`.
pub(super) fn says_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || says_contents(path)
}

/// Whether what is in a directory is meant: the path ends with `/.`.
pub(super) fn says_contents(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/.") || bytes == b"."
}

/// The last name of a path; none for a root, and for what ends with `..`.
pub(super) fn base_name(path: &Path) -> Option<OsString> {
    match path.components().next_back() {
        Some(Component::Normal(name)) => Some(name.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_paths() {
        for (path, directory, contents, name) in [
            ("/a/b", false, false, Some("b")),
            ("/a/b/", true, false, Some("b")),
            ("/a/b/.", true, true, Some("b")),
            (".", true, true, None),
            ("/", true, false, None),
            ("..", false, false, None),
            ("a.", false, false, Some("a.")),
        ] {
            let path = Path::new(path);
            assert_eq!(says_directory(path), directory, "{path:?}");
            assert_eq!(says_contents(path), contents, "{path:?}");
            assert_eq!(base_name(path), name.map(OsString::from), "{path:?}");
        }
    }
}
