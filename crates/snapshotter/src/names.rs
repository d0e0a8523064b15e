//! Whose a key is.
//!
//! containerd puts a namespace into a call's headers, and into the keys that it makes: `<namespace>/<number>/<name>`.
//! Its collector of garbage names none: it lists what there is in all namespaces, and removes by key what it does not
//! know. So a call without a namespace is for the one that its key names; a key of another shape is looked for.

use grpc::{Call, Code, Status};
use store::Store;

use crate::service::{Refused, refused};
use crate::wire::NAMESPACE;

/// Where nothing names one.
const DEFAULT: &str = "default";

/// The longest name (containerd's limit).
const LONGEST: usize = 76;

/// The namespace that a call names.
pub(crate) fn named(call: &Call) -> Result<Option<&str>, Status> {
    match call.header(NAMESPACE) {
        None | Some("") => Ok(None),
        Some(name) if is_name(name) => Ok(Some(name)),
        Some(name) => {
            let text =
                format!("{name:?} is no name of a namespace: letters, digits, and single . _ - between them");
            Err(Status::new(Code::InvalidArgument, text))
        }
    }
}

/// The namespace of a snapshot that is there.
pub(crate) fn of(call: &Call, store: &Store, key: &str) -> Result<String, Status> {
    if let Some(name) = named(call)? {
        return Ok(name.to_owned());
    }
    if let Some(name) = of_key(key) {
        return Ok(name.to_owned());
    }
    let namespaces = store
        .snapshot_namespaces()
        .map_err(|e| refused(Refused::Fault(e)))?;
    let found = namespaces.into_iter().find(|name| store.stat(name, key).is_ok());
    Ok(found.unwrap_or_else(|| DEFAULT.to_owned()))
}

/// The namespace of a snapshot that is to be made.
pub(crate) fn of_new(call: &Call, key: &str) -> Result<String, Status> {
    let name = named(call)?.or_else(|| of_key(key)).unwrap_or(DEFAULT);
    Ok(name.to_owned())
}

/// The namespace that a key of containerd's names.
fn of_key(key: &str) -> Option<&str> {
    let mut parts = key.splitn(3, '/');
    let (name, number, _) = (parts.next()?, parts.next()?, parts.next()?);
    let is = is_name(name) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    is.then_some(name)
}

/// Whether containerd would take it (`pkg/identifiers`).
fn is_name(name: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    name.len() <= LONGEST && name.split(['.', '_', '-']).all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_containerd_name_their_namespace() {
        for (key, wanted) in [
            ("k8s.io/12/sha256:abc", Some("k8s.io")),
            ("default/1/extract-5/x sha256:abc", Some("default")),
            ("k8s.io/x/y", None),
            ("k8s.io//y", None),
            ("../1/y", None),
            ("k8s.io/12", None),
            ("sha256:abc", None),
            ("", None),
        ] {
            assert_eq!(of_key(key), wanted, "{key}");
        }
    }

    #[test]
    fn names_as_containerd_takes_them() {
        for name in ["a", "k8s.io", "a-b_c.d", "A1", &"x".repeat(76)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "a..b",
            "-a",
            "a-",
            "a/b",
            "a b",
            "é",
            &"x".repeat(77),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
