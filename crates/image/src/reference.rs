//! Names of images, as every tool writes them: `[domain[:port]/]path[:tag][@digest]`.
//!
//! The grammar is that of the distribution project (`reference/reference.go`), and so are the familiar names:
//! `busybox` stands for `docker.io/library/busybox:latest`. [`Reference::canonical`] is the form that the store
//! keeps and compares; [`Reference::familiar`] is the shortest form that means the same, for people.

use std::fmt;
use std::str::FromStr;

use store::Digest;

/// The domain of a name that has none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
const OFFICIAL: &str = "library/";
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Longest repository path (distribution: `RepositoryNameTotalLengthMax`).
const MAX_PATH: usize = 255;
/// Longest tag (distribution: `TagRegexp`).
const MAX_TAG: usize = 128;

/// Why a string is no image name, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Nothing was written.
    #[error("an image name is empty; write one like \"debian\" or \"ghcr.io/owner/name:tag\"")]
    Empty,
    /// A URL was written where a name belongs.
    #[error("invalid image name {name:?}: it is written without {scheme:?}")]
    Scheme {
        /// What was given.
        name: String,
        /// The part to leave out.
        scheme: &'static str,
    },
    /// The repository has capital letters.
    #[error("invalid image name {name:?}: a repository is written in lower case: {lower:?}")]
    Uppercase {
        /// What was given.
        name: String,
        /// The same name in lower case.
        lower: String,
    },
    /// 64 hexadecimal digits: an identifier of an image, not a name.
    #[error("invalid image name {name:?}: 64 hexadecimal digits are the ID of an image, not a name")]
    Identifier {
        /// What was given.
        name: String,
    },
    /// The part before the first slash is no host.
    #[error("invalid image name {name:?}: {domain:?} is not a host name with an optional port")]
    Domain {
        /// What was given.
        name: String,
        /// The part in question.
        domain: String,
    },
    /// The repository path breaks the grammar.
    #[error(
        "invalid image name {name:?}: {path:?} is no repository; its parts are lower-case letters and digits, joined by '.', '_', '__' or dashes, with '/' between the parts"
    )]
    Path {
        /// What was given.
        name: String,
        /// The part in question.
        path: String,
    },
    /// The repository path is longer than 255 bytes.
    #[error("invalid image name {name:?}: the repository is longer than 255 characters")]
    TooLong {
        /// What was given.
        name: String,
    },
    /// The tag breaks the grammar.
    #[error(
        "invalid image name {name:?}: {tag:?} is no tag; a tag is at most 128 letters, digits, '_', '.' and '-' and begins with none of '.' and '-'"
    )]
    Tag {
        /// What was given.
        name: String,
        /// The part in question.
        tag: String,
    },
    /// The digest is none, or of an algorithm that is not supported.
    #[error("invalid image name {name:?}: {digest:?} is no digest; write sha256: and 64 hexadecimal digits")]
    Digest {
        /// What was given.
        name: String,
        /// The part in question.
        digest: String,
    },
}

/// The name of an image: where it is found, and which of its versions.
///
/// There is always a tag or a digest; with both, the digest decides and the tag is only remembered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a name as a user writes it: no domain means [`DEFAULT_DOMAIN`], neither tag nor digest [`DEFAULT_TAG`].
    ///
    /// # Errors
    /// One of [`ReferenceError`], which names the part that is wrong.
    pub fn parse(name: &str) -> Result<Self, ReferenceError> {
        let given = || name.to_owned();
        if name.is_empty() {
            return Err(ReferenceError::Empty);
        }
        for scheme in ["https://", "http://", "docker://"] {
            if name.starts_with(scheme) {
                return Err(ReferenceError::Scheme {
                    name: given(),
                    scheme,
                });
            }
        }
        if name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier { name: given() });
        }
        let (rest, digest) = match name.split_once('@') {
            None => (name, None),
            Some((rest, digest)) => match digest.parse::<Digest>() {
                Ok(parsed) => (rest, Some(parsed)),
                Err(_) => {
                    return Err(ReferenceError::Digest {
                        name: given(),
                        digest: digest.to_owned(),
                    });
                }
            },
        };
        let (domain, remainder) = split_domain(rest);
        let (path, tag) = match remainder.split_once(':') {
            None => (remainder, None),
            Some((path, tag)) => (path, Some(tag)),
        };
        if !is_domain(domain) {
            return Err(ReferenceError::Domain {
                name: given(),
                domain: domain.to_owned(),
            });
        }
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            let lower = name.replacen(path, &path.to_ascii_lowercase(), 1);
            return Err(ReferenceError::Uppercase { name: given(), lower });
        }
        if !path.split('/').all(is_path_component) {
            return Err(ReferenceError::Path {
                name: given(),
                path: path.to_owned(),
            });
        }
        let path = match domain == DEFAULT_DOMAIN && !path.contains('/') {
            true => format!("{OFFICIAL}{path}"),
            false => path.to_owned(),
        };
        if path.len() > MAX_PATH {
            return Err(ReferenceError::TooLong { name: given() });
        }
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag {
                name: given(),
                tag: tag.to_owned(),
            });
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag,
            digest,
        })
    }

    /// Host and optional port, as in the canonical name (`docker.io` for the default, not the host that serves it).
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on that host, `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Domain and path, without tag and digest: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if one was written or implied.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The full name that the store keeps: `docker.io/library/busybox:latest`, or `…@sha256:…` without the tag
    /// where there is a digest (a digest names one thing for ever, a tag beside it says nothing more).
    pub fn canonical(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}/{}@{digest}", self.domain, self.path),
            (None, Some(tag)) => format!("{}/{}:{tag}", self.domain, self.path),
            (None, None) => self.repository(),
        }
    }

    /// The repository as people write it: `busybox`, `owner/name`, `quay.io/owner/name`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(name) if !name.contains('/') => name.to_owned(),
            // A first part that would be read as a domain needs the real one before it.
            _ if split_domain(&self.path) != (DEFAULT_DOMAIN, &*self.path) => self.repository(),
            _ => self.path.clone(),
        }
    }

    /// The shortest name that means the same: `busybox:latest`.
    pub fn familiar(&self) -> String {
        let mut out = self.familiar_repository();
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
        out
    }

    /// The same repository at one digest, without a tag.
    pub fn at(&self, digest: &Digest) -> Self {
        Self {
            digest: Some(*digest),
            tag: None,
            ..self.clone()
        }
    }

    /// The same repository at one tag, without a digest.
    ///
    /// # Errors
    /// [`ReferenceError::Tag`].
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        match is_tag(tag) {
            true => Ok(Self {
                tag: Some(tag.to_owned()),
                digest: None,
                ..self.clone()
            }),
            false => Err(ReferenceError::Tag {
                name: self.familiar_repository(),
                tag: tag.to_owned(),
            }),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(s: &str) -> Result<Self, ReferenceError> {
        Self::parse(s)
    }
}

/// The familiar name.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.familiar())
    }
}

/// distribution's `splitDockerDomain`: what stands before the first slash is a domain when it could not be a
/// part of a path, or is `localhost`.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

/// Whether this is `host[:port]`, host being a domain name, an IPv4 address or an IPv6 address in brackets.
pub(crate) fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, port)) => (host, port),
            None => return false,
        },
        None => domain.split_at(domain.find(':').unwrap_or(domain.len())),
    };
    let port_fits = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let host_fits = match domain.starts_with('[') {
        true => !host.is_empty() && host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        false => host.split('.').all(|part| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        }),
    };
    host_fits && port_fits
}

/// `[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*`
pub(crate) fn is_path_component(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let mut at = 0;
    loop {
        let start = at;
        while at < bytes.len() && word(bytes[at]) {
            at += 1;
        }
        if at == start {
            return false;
        }
        if at == bytes.len() {
            return true;
        }
        let separator = at;
        while at < bytes.len() && !word(bytes[at]) {
            at += 1;
        }
        let separator = &bytes[separator..at];
        if !(matches!(separator, b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')) {
            return false;
        }
    }
}

/// `[\w][\w.-]{0,127}`
pub(crate) fn is_tag(tag: &str) -> bool {
    !tag.is_empty()
        && tag.len() <= MAX_TAG
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn familiar_and_canonical() {
        // given, canonical, familiar
        let at = |name: &str| format!("{name}@{HEX}");
        for (given, canonical, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "docker.io/library/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "index.docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            ("owner/name", "docker.io/owner/name:latest", "owner/name:latest"),
            (
                "library/a/b",
                "docker.io/library/a/b:latest",
                "library/a/b:latest",
            ),
            ("quay.io/a/b/c:v1", "quay.io/a/b/c:v1", "quay.io/a/b/c:v1"),
            ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
            (
                "localhost:5000",
                "docker.io/library/localhost:5000",
                "localhost:5000",
            ),
            (
                "localhost:5000/x",
                "localhost:5000/x:latest",
                "localhost:5000/x:latest",
            ),
            ("Host/x", "Host/x:latest", "Host/x:latest"),
            ("127.0.0.1:80/x", "127.0.0.1:80/x:latest", "127.0.0.1:80/x:latest"),
            ("[::1]:5000/x:t", "[::1]:5000/x:t", "[::1]:5000/x:t"),
            (
                "a--b__c/d.e_f",
                "docker.io/a--b__c/d.e_f:latest",
                "a--b__c/d.e_f:latest",
            ),
            (
                "docker.io/a.b/c",
                "docker.io/a.b/c:latest",
                "docker.io/a.b/c:latest",
            ),
            (
                "x:UPPER_Tag.-1",
                "docker.io/library/x:UPPER_Tag.-1",
                "x:UPPER_Tag.-1",
            ),
        ] {
            let reference = Reference::parse(given).unwrap();
            assert_eq!(reference.canonical(), canonical, "{given}");
            assert_eq!(reference.familiar(), familiar, "{given}");
            assert_eq!(Reference::parse(canonical).unwrap(), reference, "{given}");
        }
        let both = Reference::parse(&at("busybox:1")).unwrap();
        assert_eq!(both.canonical(), at("docker.io/library/busybox"));
        assert_eq!(both.familiar(), at("busybox:1"));
        let digest = Reference::parse(&at("quay.io/a")).unwrap();
        assert_eq!(digest.tag(), None);
        assert_eq!(digest.canonical(), at("quay.io/a"));
    }

    #[test]
    fn refused() {
        use ReferenceError as E;
        let long = format!("a/{}", "b".repeat(254));
        let hex = &HEX[7..];
        type Is = fn(&E) -> bool;
        let cases: [(&str, Is); 28] = [
            ("", |e| matches!(e, E::Empty)),
            ("https://quay.io/a", |e| matches!(e, E::Scheme { .. })),
            ("docker://busybox", |e| matches!(e, E::Scheme { .. })),
            (hex, |e| matches!(e, E::Identifier { .. })),
            (
                "Busybox",
                |e| matches!(e, E::Uppercase { lower, .. } if lower == "busybox"),
            ),
            (
                "quay.io/A/b:V",
                |e| matches!(e, E::Uppercase { lower, .. } if lower == "quay.io/a/b:V"),
            ),
            ("-a.b/c", |e| matches!(e, E::Domain { .. })),
            ("a..b/c", |e| matches!(e, E::Domain { .. })),
            ("a.b:/c", |e| matches!(e, E::Domain { .. })),
            ("a.b:x/c", |e| matches!(e, E::Domain { .. })),
            ("[::1/c", |e| matches!(e, E::Domain { .. })),
            ("[::g]/c", |e| matches!(e, E::Domain { .. })),
            ("a/", |e| matches!(e, E::Path { .. })),
            ("/a", |e| matches!(e, E::Path { .. })),
            ("a//b", |e| matches!(e, E::Path { .. })),
            ("a/-b", |e| matches!(e, E::Path { .. })),
            ("a___b", |e| matches!(e, E::Path { .. })),
            ("a._b", |e| matches!(e, E::Path { .. })),
            ("a-", |e| matches!(e, E::Path { .. })),
            ("a b", |e| matches!(e, E::Path { .. })),
            ("../etc/passwd", |e| matches!(e, E::Domain { .. })),
            ("a/../b", |e| matches!(e, E::Path { .. })),
            ("naïve", |e| matches!(e, E::Path { .. })),
            (&long, |e| matches!(e, E::TooLong { .. })),
            ("a:", |e| matches!(e, E::Tag { .. })),
            ("a:-t", |e| matches!(e, E::Tag { .. })),
            ("a:b:c", |e| matches!(e, E::Tag { .. })),
            ("a@sha256:12", |e| matches!(e, E::Digest { .. })),
        ];
        for (given, is) in cases {
            let error = Reference::parse(given).expect_err(given);
            assert!(is(&error), "{given}: {error:?}");
            assert!(!error.to_string().contains('\n'));
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    proptest! {
        /// Whatever parses, its canonical and its familiar form parse to the same thing.
        #[test]
        fn forms_agree(s in "([a-zA-Z0-9.:\\[\\]-]{1,8}/)?[a-z0-9._-]{1,8}(/[a-z0-9._-]{1,6}){0,2}(:[A-Za-z0-9_.-]{1,8})?") {
            if let Ok(reference) = Reference::parse(&s) {
                prop_assert_eq!(&Reference::parse(&reference.canonical()).unwrap(), &reference);
                prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
            }
        }

        #[test]
        fn never_panics(s in any::<String>()) {
            let _ = Reference::parse(&s);
        }
    }
}
