//! The attribute `metacopy`: a regular file whose metadata is here and whose data is in a layer below.

/// Digest algorithm number of fs-verity's SHA-256 (`FS_VERITY_HASH_ALG_SHA256`).
pub const SHA256: u8 = 1;

/// A decoded `metacopy` value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metacopy {
    /// fs-verity digest that the data must have: algorithm and digest.
    pub digest: Option<(u8, Vec<u8>)>,
}

impl Metacopy {
    /// Decodes a value: empty, or `{version = 0, len, flags, algorithm, digest}`. `None` for what the kernel
    /// refuses as malformed or too new.
    pub fn parse(value: &[u8]) -> Option<Metacopy> {
        match value {
            [] => Some(Metacopy::default()),
            [0, len, 0, algorithm, digest @ ..] if usize::from(*len) == value.len() => Some(Metacopy {
                digest: (!digest.is_empty()).then(|| (*algorithm, digest.to_vec())),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(Metacopy::parse(b""), Some(Metacopy::default()));
        assert_eq!(Metacopy::parse(&[0, 4, 0, 0]), Some(Metacopy::default()));
        let digest = [&[0, 36, 0, SHA256][..], &[7; 32]].concat();
        let decoded = Metacopy::parse(&digest).unwrap();
        assert_eq!(decoded.digest, Some((SHA256, vec![7; 32])));
        for bad in [&[0][..], &[1, 4, 0, 0], &[0, 5, 0, 0], &[0, 4, 1, 0]] {
            assert_eq!(Metacopy::parse(bad), None, "{bad:?}");
        }
    }
}
