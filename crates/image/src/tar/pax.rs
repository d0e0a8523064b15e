//! PAX extended headers: `LENGTH KEY=VALUE\n` records that say more about an entry than its header block can.
//!
//! Source: POSIX.1-2024, pax, "pax Extended Header"; GNU tar's manual, "Sparse Formats"; star(5); libarchive-formats(5).

use std::collections::BTreeMap;

use super::{Segment, Time};

/// What extended headers say about an entry; `None` where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) atime: Option<Time>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: Sparse,
}

/// The `GNU.sparse.` records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) map: Vec<Segment>,
    /// A map was given, be it an empty one.
    pub(super) mapped: bool,
    /// An offset (0.0) whose length has not come yet.
    offset: Option<u64>,
}

impl Sparse {
    /// Whether the records say at all that the file is sparse.
    pub(super) fn is_one(&self) -> bool {
        self.major.is_some() || self.minor.is_some() || self.mapped
    }
}

/// A key and its value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits records. Yields an error text once and ends where the text is malformed.
fn records(mut text: &[u8]) -> impl Iterator<Item = Result<Record<'_>, String>> {
    std::iter::from_fn(move || {
        // Some writers pad with NULs.
        if text.is_empty() || text.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = split_record(text);
        text = match &record {
            Ok((_, rest)) => rest,
            Err(_) => &[],
        };
        Some(record.map(|(record, _)| record))
    })
}

fn split_record(text: &[u8]) -> Result<(Record<'_>, &[u8]), String> {
    let malformed = || "malformed extended header".to_owned();
    let space = text
        .iter()
        .take(20)
        .position(|byte| *byte == b' ')
        .ok_or_else(malformed)?;
    let len = decimal(&text[..space])
        .and_then(|len| usize::try_from(len).ok())
        .filter(|len| *len > space + 1 && *len <= text.len())
        .ok_or_else(malformed)?;
    let (record, rest) = text.split_at(len);
    let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
    let equals = body.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(malformed());
    }
    Ok(((key, value), rest))
}

/// Plain decimal digits.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// Decimal seconds with a fraction of any length, of which nine digits count; may be negative.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (secs, fraction) = match text.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let secs = i64::try_from(decimal(secs)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0u32, |nanos, at| {
        nanos * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'))
    });
    Some(match (negative, nanos) {
        (false, nanos) => Time { secs, nanos },
        (true, 0) => Time {
            secs: -secs,
            nanos: 0,
        },
        (true, nanos) => Time {
            secs: -secs - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

/// Decodes `%41` as libarchive writes it in names of attributes.
fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            decoded.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    Some(decoded)
}

/// Decodes base64 with or without padding.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.iter().filter(|byte| !matches!(byte, b'=' | b'\n')) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            decoded.push((bits >> count) as u8);
        }
    }
    Some(decoded)
}

impl Extended {
    /// Decodes the text of one extended header.
    pub(super) fn parse(text: &[u8]) -> Result<Extended, String> {
        let mut extended = Extended::default();
        for record in records(text) {
            let (key, value) = record?;
            extended.set(key, value)?;
        }
        if extended.sparse.offset.is_some() {
            return Err("sparse map with an offset and no length".into());
        }
        Ok(extended)
    }

    /// Takes over what a global header may say: owner, group and times. A name, a size or a sparse map for every
    /// entry to come makes no sense, and readers that took one would frame the archive differently; attributes for
    /// every entry nobody writes.
    pub(super) fn set_global(&mut self, global: Extended) {
        self.uid = global.uid.or(self.uid);
        self.gid = global.gid.or(self.gid);
        self.mtime = global.mtime.or(self.mtime);
        self.atime = global.atime.or(self.atime);
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let shown = || {
            format!(
                "extended header {}={:?}",
                key.escape_ascii(),
                String::from_utf8_lossy(value)
            )
        };
        let bad = || format!("{} is malformed", shown());
        let number = || decimal(value).map(Some).ok_or_else(bad);
        let moment = || time(value).map(Some).ok_or_else(bad);
        let name = || match value.contains(&0) {
            true => Err(format!("{} holds a NUL", shown())),
            false => Ok(Some(value.to_vec())),
        };
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.insert(name.to_vec(), value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name = percent_decode(name)
                .filter(|name| !name.contains(&0))
                .ok_or_else(bad)?;
            let value = base64_decode(value).ok_or_else(bad)?;
            // libarchive writes both forms of one attribute; star's has the value as it is.
            self.xattrs.entry(name).or_insert(value);
            return Ok(());
        }
        // An empty value takes back what an earlier record said.
        let empty = value.is_empty();
        match key {
            b"path" => self.path = if empty { None } else { name()? },
            b"linkpath" => self.linkpath = if empty { None } else { name()? },
            b"size" => self.size = if empty { None } else { number()? },
            b"uid" => self.uid = if empty { None } else { number()? },
            b"gid" => self.gid = if empty { None } else { number()? },
            b"mtime" => self.mtime = if empty { None } else { moment()? },
            b"atime" => self.atime = if empty { None } else { moment()? },
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.minor" => self.sparse.minor = number()?,
            b"GNU.sparse.name" => self.sparse.name = name()?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.size = number()?,
            b"GNU.sparse.offset" => {
                let offset = number()?;
                if self.sparse.offset.replace(offset.unwrap_or_default()).is_some() {
                    return Err(bad());
                }
                self.sparse.mapped = true;
            }
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or_else(bad)?;
                let len = decimal(value).ok_or_else(bad)?;
                self.sparse.map.push(Segment { offset, len });
            }
            b"GNU.sparse.map" => {
                self.sparse.mapped = true;
                self.sparse.map = map(value).ok_or_else(bad)?;
            }
            // Names of owners, comments, checksums, ACLs as text: nothing a layer takes from here.
            _ => {}
        }
        Ok(())
    }
}

/// `offset,length,offset,length…`
fn map(text: &[u8]) -> Option<Vec<Segment>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Vec<u64> = text
        .split(|byte| *byte == b',')
        .map(decimal)
        .collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| {
        let segment = |[offset, len]: &[u64; 2]| Segment {
            offset: *offset,
            len: *len,
        };
        pairs.iter().map(segment).collect()
    })
}

/// Appends one record.
pub(super) fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    // The length counts its own digits.
    let mut len = body + 1;
    while len != body + len.to_string().len() {
        len = body + len.to_string().len();
    }
    out.extend_from_slice(format!("{len} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: u32) -> Option<Time> {
        Some(Time { secs, nanos })
    }

    #[test]
    fn times() {
        assert_eq!(time(b"1700000000"), at(1_700_000_000, 0));
        assert_eq!(time(b"1700000000.5"), at(1_700_000_000, 500_000_000));
        assert_eq!(time(b"1.1234567899"), at(1, 123_456_789));
        assert_eq!(time(b"1."), at(1, 0));
        assert_eq!(time(b"-1"), at(-1, 0));
        assert_eq!(time(b"-1.25"), at(-2, 750_000_000));
        assert_eq!(time(b"-0.000000001"), at(-1, 999_999_999));
        for bad in [&b""[..], b".5", b"1.x", b"--1", b"99999999999999999999"] {
            assert_eq!(time(bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn records_round_trip_at_every_length() {
        for len in (0..2200).chain([9_990, 99_980]) {
            let value = vec![b'v'; len];
            let mut text = Vec::new();
            write_record(&mut text, b"SCHILY.xattr.user.k", &value);
            write_record(&mut text, b"path", b"p\n=q");
            let extended = Extended::parse(&text).unwrap();
            assert_eq!(extended.xattrs, BTreeMap::from([(b"user.k".to_vec(), value)]));
            assert_eq!(extended.path.as_deref(), Some(&b"p\n=q"[..]));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"99999999999999999999 a=b\n",
            b"6 a=b\n7",
            b"3 =\n",
            b"4 ab\n",
            b"100 path=x\n",
            b"0 a=b\n",
            b"12 path=a\0b\n",
            b"11 size=-1\n",
            b"12 size=1e3\n",
            b"24 GNU.sparse.offset=10\n",
            b"26 GNU.sparse.numbytes=10\n",
            b"22 GNU.sparse.map=1,2,3\n",
        ] {
            assert!(Extended::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        assert_eq!(Extended::parse(b"\0\0\0").unwrap(), Extended::default());
    }

    #[test]
    fn attributes_of_libarchive() {
        let mut text = Vec::new();
        write_record(&mut text, b"LIBARCHIVE.xattr.user.a%3Db", b"aGVsbG8");
        let extended = Extended::parse(&text).unwrap();
        assert_eq!(
            extended.xattrs,
            BTreeMap::from([(b"user.a=b".to_vec(), b"hello".to_vec())])
        );
    }
}
