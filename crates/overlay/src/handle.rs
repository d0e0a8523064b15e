//! The attributes `origin` and `upper`: a file handle that says which inode something was copied from.

/// Second byte of every handle (`OVL_FH_MAGIC`).
pub const MAGIC: u8 = 0xfb;
/// The handle was made on a big-endian machine.
const BIG_ENDIAN: u8 = 1;
/// The handle means the same on every machine.
const ANY_ENDIAN: u8 = 2;
/// The handle is of a file in the upper layer.
const PATH_UPPER: u8 = 4;

/// What an `origin` or `upper` value says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Empty, too new, or of another machine: copied up from something unknown.
    Unknown,
    /// A handle that can be looked up.
    Handle(Handle),
}

/// A decoded file handle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handle {
    /// Whether it points into the upper layer.
    pub upper: bool,
    /// Type of `fid`, as `name_to_handle_at(2)` gives it.
    pub fid_type: u8,
    /// UUID of the file system the inode is on; all zero where that has none.
    pub uuid: [u8; 16],
    /// The handle itself, opaque to all but its file system.
    pub fid: Vec<u8>,
}

impl Origin {
    /// Decodes a value: `{version = 0, magic, len, flags, fid_type, uuid[16], fid[]}`. `None` for one that the
    /// kernel calls invalid.
    pub fn parse(value: &[u8]) -> Option<Origin> {
        let (version, magic, len, flags, fid_type, rest) = match value {
            [] => return Some(Origin::Unknown),
            [version, magic, len, flags, fid_type, rest @ ..] => {
                (*version, *magic, *len, *flags, *fid_type, rest)
            }
            _ => return None,
        };
        let (uuid, fid) = rest.split_first_chunk::<16>()?;
        if magic != MAGIC || usize::from(len) < 21 || usize::from(len) > value.len() {
            return None;
        }
        let big_endian = flags & BIG_ENDIAN != 0;
        let foreign = flags & ANY_ENDIAN == 0 && big_endian != cfg!(target_endian = "big");
        if version > 0 || flags & !(BIG_ENDIAN | ANY_ENDIAN | PATH_UPPER) != 0 || foreign {
            return Some(Origin::Unknown);
        }
        Some(Origin::Handle(Handle {
            upper: flags & PATH_UPPER != 0,
            fid_type,
            uuid: *uuid,
            fid: fid[..usize::from(len) - 21].to_vec(),
        }))
    }
}

impl Handle {
    /// Encodes it as [`Origin::parse`] reads it, in this machine's byte order. Empty when it is too long for the
    /// format, which means that the origin is unknown.
    pub fn encode(&self) -> Vec<u8> {
        let Ok(len) = u8::try_from(21 + self.fid.len()) else {
            return Vec::new();
        };
        let endian = if cfg!(target_endian = "big") {
            BIG_ENDIAN
        } else {
            0
        };
        let flags = endian | if self.upper { PATH_UPPER } else { 0 };
        let mut value = vec![0, MAGIC, len, flags, self.fid_type];
        value.extend(self.uuid);
        value.extend(&self.fid);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(Origin::parse(b""), Some(Origin::Unknown));
        let mut value = vec![0, MAGIC, 29, ANY_ENDIAN | PATH_UPPER, 1];
        value.extend([9; 16]);
        value.extend([1, 2, 3, 4, 5, 6, 7, 8]);
        let Some(Origin::Handle(handle)) = Origin::parse(&value) else {
            panic!("a handle")
        };
        assert!(handle.upper);
        assert_eq!((handle.fid_type, handle.uuid, handle.fid.len()), (1, [9; 16], 8));
        let with = |at: usize, byte: u8| {
            let mut value = value.clone();
            value[at] = byte;
            Origin::parse(&value)
        };
        assert_eq!(with(0, 1), Some(Origin::Unknown), "newer version");
        assert_eq!(with(3, 8), Some(Origin::Unknown), "unknown flag");
        assert_eq!(with(3, BIG_ENDIAN), Some(Origin::Unknown), "another machine's");
        assert_eq!(with(1, 0), None, "magic");
        assert_eq!(with(2, 30), None, "longer than the value");
        assert_eq!(with(2, 20), None, "shorter than its own head");
        assert_eq!(Origin::parse(&value[..20]), None);
    }

    #[test]
    fn encoding_is_the_reverse() {
        for upper in [false, true] {
            let handle = Handle {
                upper,
                fid_type: 0x81,
                uuid: [3; 16],
                fid: vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            };
            let value = handle.encode();
            assert_eq!(Origin::parse(&value), Some(Origin::Handle(handle)));
        }
        let long = Handle {
            upper: false,
            fid_type: 1,
            uuid: [0; 16],
            fid: vec![0; 235],
        };
        assert_eq!(Origin::parse(&long.encode()), Some(Origin::Unknown));
    }
}
