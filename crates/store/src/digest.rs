//! [`Digest`]: the name of content, and [`Descriptor`]: such a name with type and size.
//!
//! OCI image-spec, descriptor.md. Only `sha256` is used; another algorithm is refused by name.

use std::fmt;
use std::str::FromStr;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The SHA-256 of some content. Written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// Well formed, but of another algorithm than SHA-256.
    #[error("digest {0:?}: only sha256 is supported")]
    Algorithm(String),
    /// Not `sha256:` and 64 lower-case hex digits.
    #[error("{0:?} is not a digest (sha256:<64 hex digits>)")]
    Malformed(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Digest {
        let mut hasher = Hasher::new();
        hasher.update(bytes.as_ref());
        hasher.finish()
    }

    /// A digest from the 32 bytes of a SHA-256 that was computed elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text
    }

    /// A digest from its 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Result<Digest, DigestError> {
        let malformed = || DigestError::Malformed(hex.to_owned());
        let nibble = |c: u8| match c {
            b'0'..=b'9' => Ok(c - b'0'),
            b'a'..=b'f' => Ok(c - b'a' + 10),
            _ => Err(malformed()),
        };
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(malformed());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Digest(bytes))
    }

    /// The chain ID of a layer with this diff ID on top of the chain `below` (OCI image-spec, config.md, "Layer
    /// ChainID"); the diff ID itself for the first layer.
    pub fn chain(below: Option<&Digest>, diff_id: &Digest) -> Digest {
        match below {
            None => *diff_id,
            Some(below) => Digest::of(format!("{below} {diff_id}")),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        match text.split_once(':') {
            Some(("sha256", hex)) => {
                Digest::from_hex(hex).map_err(|_| DigestError::Malformed(text.to_owned()))
            }
            Some((algorithm, hex)) if !algorithm.is_empty() && !hex.is_empty() => {
                Err(DigestError::Algorithm(text.to_owned()))
            }
            _ => Err(DigestError::Malformed(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Digest, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl ToSql for Digest {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.to_string().into())
    }
}

impl FromSql for Digest {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Digest> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Hasher {
        Hasher::default()
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Names content by digest, with its type and size (OCI image-spec, descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type, such as `application/vnd.oci.image.manifest.v1+json`.
    pub media_type: String,
    /// What it is.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of("").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(""));
        let json = serde_json::to_string(&Digest::of("")).unwrap();
        assert_eq!(json, format!("{empty:?}"));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(""));
    }

    #[test]
    fn bad_texts_are_told_apart() {
        let algorithm = "sha512:00".parse::<Digest>().unwrap_err();
        assert_eq!(algorithm, DigestError::Algorithm("sha512:00".into()));
        let upper = format!("sha256:{}", "A".repeat(64));
        let long = format!("sha256:{}", "a".repeat(65));
        let wide = format!("sha256:{}", "é".repeat(32));
        for text in [
            "",
            "sha256",
            "sha256:",
            ":",
            ":aa",
            "sha256:../../x",
            &upper,
            &long,
            &wide,
        ] {
            assert_eq!(
                text.parse::<Digest>(),
                Err(DigestError::Malformed(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn chain_ids_follow_the_image_spec() {
        let (a, b) = (Digest::of("a"), Digest::of("b"));
        assert_eq!(Digest::chain(None, &a), a);
        assert_eq!(Digest::chain(Some(&a), &b), Digest::of(format!("{a} {b}")));
    }

    #[test]
    fn descriptors_are_written_as_the_spec_says() {
        let json = serde_json::to_value(Descriptor {
            media_type: "x/y".into(),
            digest: Digest::of(""),
            size: 0,
        })
        .unwrap();
        assert_eq!(json["mediaType"], "x/y");
        assert_eq!(json["size"], 0);
    }
}
