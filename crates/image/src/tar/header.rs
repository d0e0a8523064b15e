//! One 512-byte header block: fields, numbers, checksum.

use std::ops::Range;

use super::BLOCK;

/// A header block.
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

/// Which dialect a block is written in; it decides what the bytes after the group name mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Before 1988: nothing after the link name.
    V7,
    /// POSIX: a prefix of 155 bytes.
    Ustar,
    /// Schilling's: a prefix of 131 bytes, then times.
    Star,
    /// Old GNU: times, then the sparse map; no prefix.
    Gnu,
}

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const TYPE: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const MAJOR: Range<usize> = 329..337;
pub(super) const MINOR: Range<usize> = 337..345;
pub(super) const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_ATIME: Range<usize> = 345..357;
const GNU_CTIME: Range<usize> = 357..369;
pub(super) const GNU_SPARSE: Range<usize> = 386..482;
pub(super) const GNU_EXTENDED: usize = 482;
pub(super) const GNU_REAL_SIZE: Range<usize> = 483..495;

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number: octal digits between spaces and NULs, or base-256 when the first bit is set. `None` for anything else,
/// and for what does not fit.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Two's complement, the first bit being the mark and the second the sign.
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (index, byte) in field.iter().enumerate() {
            let byte = if index == 0 {
                if negative { *byte } else { *byte & 0x7f }
            } else {
                *byte
            };
            value = (value << 8) | i128::from(byte);
            // Leading bytes of the sign alone never grow the value; anything else that does is too large.
            if i64::try_from(value).is_err() {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == 0;
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let end = field
        .iter()
        .rposition(|byte| !blank(byte))
        .map_or(start, |at| at + 1);
    // As in Go: what follows an inner NUL is not looked at.
    let digits = text(&field[start..end]);
    let mut value: i64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value.checked_mul(8)?.checked_add(i64::from(digit - b'0'))?;
    }
    Some(value)
}

impl<'a> Header<'a> {
    pub(super) fn field(&self, range: Range<usize>) -> &'a [u8] {
        &self.0[range]
    }

    /// The type flag.
    pub(super) fn flag(&self) -> u8 {
        self.0[TYPE]
    }

    /// Whether the checksum holds, computed over unsigned bytes as the standard says, or over signed ones as some
    /// old programs did.
    pub(super) fn checksum_holds(&self) -> bool {
        let Some(stated) = number(self.field(CHECKSUM)) else {
            return false;
        };
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (index, byte) in self.0.iter().enumerate() {
            let byte = if CHECKSUM.contains(&index) { b' ' } else { *byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte as i8);
        }
        stated == unsigned || stated == signed
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self.field(MAGIC) {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => match self.field(STAR_TRAILER) {
                b"tar\0" => Dialect::Star,
                _ => Dialect::Ustar,
            },
            _ => Dialect::V7,
        }
    }

    /// The name, its prefix before it where the dialect has one.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(self.field(NAME));
        let prefix = match self.dialect() {
            Dialect::V7 => &[],
            Dialect::Ustar => text(self.field(PREFIX)),
            Dialect::Star => text(self.field(STAR_PREFIX)),
            // Go before 1.8 wrote a prefix into GNU headers, where the times belong; images of that age are
            // still about. What is no pair of times and is ASCII is such a prefix.
            Dialect::Gnu => {
                let times =
                    number(self.field(GNU_ATIME)).is_some() && number(self.field(GNU_CTIME)).is_some();
                let prefix = text(self.field(PREFIX));
                if !times && prefix.is_ascii() { prefix } else { &[] }
            }
        };
        match prefix {
            [] => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: [(&[u8], Option<i64>); 14] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0", Some(0)),
            (b"", None),
            (b"77777777777", Some(0o77777777777)),
            (b"12\x0034", Some(0o12)),
            (b"0000649\0", None),
            (b"-1", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xc0\0\0\0\0\0\0\0\0\0\0\0", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
    }
}
