//! Headers of our own: POSIX ustar, with a PAX extended header for what that cannot say.
//!
//! The bytes depend on the entry alone, so that the same tree gives the same archive everywhere.

use std::collections::BTreeMap;

use super::header::{CHECKSUM, GID, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, PREFIX, SIZE, TYPE, UID};
use super::pax::write_record;
use super::reader::padding;
use super::{BLOCK, Entry, Kind, Time};

/// The two blocks of zeros that end an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// The zeros that follow `len` bytes of data.
pub fn data_padding(len: u64) -> &'static [u8] {
    &END[..padding(len) as usize]
}

/// Appends the header of `entry` to `out`: all that precedes its data ([`Entry::data_len`] bytes, then
/// [`data_padding`]). A directory's name should end with `/`.
pub fn write_header(entry: &Entry, out: &mut Vec<u8>) {
    let mut records = BTreeMap::new();
    let mut block = [0; BLOCK];
    let mut stored = entry.data_len();
    let mut map = Vec::new();
    if let Some(segments) = &entry.segments {
        map = sparse_map(entry.size, segments);
        stored += map.len() as u64;
        records.insert(b"GNU.sparse.major".to_vec(), b"1".to_vec());
        records.insert(b"GNU.sparse.minor".to_vec(), b"0".to_vec());
        records.insert(b"GNU.sparse.name".to_vec(), entry.name.clone());
        records.insert(
            b"GNU.sparse.realsize".to_vec(),
            entry.size.to_string().into_bytes(),
        );
        // Who does not know sparse files shall not take the map for the file.
        let shown = [b"GNUSparseFile.0/", last_component(&entry.name)].concat();
        put(&mut block[NAME], &shown);
    } else {
        match split_name(&entry.name) {
            Some((prefix, name)) => {
                put(&mut block[PREFIX], prefix);
                put(&mut block[NAME], name);
            }
            None => {
                put(&mut block[NAME], &entry.name);
                records.insert(b"path".to_vec(), entry.name.clone());
            }
        }
    }
    put(&mut block[LINK], &entry.link);
    if entry.link.len() > LINK.len() || !entry.link.is_ascii() {
        records.insert(b"linkpath".to_vec(), entry.link.clone());
    }
    for (key, range, value) in [
        ("size", SIZE, stored),
        ("uid", UID, entry.uid.into()),
        ("gid", GID, entry.gid.into()),
    ] {
        if !octal(&mut block[range], value) {
            records.insert(key.into(), value.to_string().into_bytes());
        }
    }
    let whole = u64::try_from(entry.mtime.secs).is_ok_and(|secs| octal(&mut block[MTIME], secs));
    if !whole {
        octal(&mut block[MTIME], 0);
    }
    if !whole || entry.mtime.nanos != 0 {
        records.insert(b"mtime".to_vec(), time(entry.mtime).into_bytes());
    }
    if let Some(atime) = entry.atime {
        records.insert(b"atime".to_vec(), time(atime).into_bytes());
    }
    for (name, value) in &entry.xattrs {
        records.insert([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
    }
    octal(&mut block[MODE], entry.mode.into());
    octal(&mut block[MAJOR], entry.device.0.into());
    octal(&mut block[MINOR], entry.device.1.into());
    block[TYPE] = match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    };
    if !records.is_empty() {
        let mut text = Vec::new();
        for (key, value) in &records {
            write_record(&mut text, key, value);
        }
        let mut extended = [0; BLOCK];
        let shown = [b"PaxHeaders.0/", last_component(&entry.name)].concat();
        put(&mut extended[NAME], &shown);
        octal(&mut extended[MODE], 0o644);
        for range in [UID, GID, MTIME] {
            octal(&mut extended[range], 0);
        }
        octal(&mut extended[SIZE], text.len() as u64);
        extended[TYPE] = b'x';
        seal(&mut extended, out);
        let end = padding(text.len() as u64);
        out.extend(text);
        out.extend_from_slice(&END[..end as usize]);
    }
    seal(&mut block, out);
    out.extend(map);
}

/// Completes a block with magic and checksum.
fn seal(block: &mut [u8; BLOCK], out: &mut Vec<u8>) {
    block[MAGIC].copy_from_slice(b"ustar\x0000");
    block[CHECKSUM].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
    out.extend_from_slice(block);
}

/// Copies as much of `text` as fits.
fn put(field: &mut [u8], text: &[u8]) {
    let len = text.len().min(field.len());
    field[..len].copy_from_slice(&text[..len]);
}

/// Writes octal digits and a NUL; `false`, and zero, when the number is too large.
fn octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let fits = u32::try_from(digits * 3).is_ok_and(|bits| value.checked_shr(bits).unwrap_or(0) == 0);
    let value = if fits { value } else { 0 };
    for (index, digit) in field[..digits].iter_mut().enumerate() {
        *digit = b'0' + (value >> ((digits - 1 - index) * 3) & 7) as u8;
    }
    field[digits] = 0;
    fits
}

fn time(time: Time) -> String {
    let text = match (time.secs, time.nanos) {
        (secs, 0) => return secs.to_string(),
        (secs, nanos) if secs >= 0 => format!("{secs}.{nanos:09}"),
        // Rounded down to -2 and .75 means -1.25.
        (secs, nanos) => format!("-{}.{:09}", -(secs + 1), 1_000_000_000 - nanos),
    };
    text.trim_end_matches('0').to_owned()
}

fn last_component(name: &[u8]) -> &[u8] {
    let name = name.strip_suffix(b"/").unwrap_or(name);
    name.rsplit(|byte| *byte == b'/').next().unwrap_or(name)
}

/// A name as ustar's two fields hold it; `None` when they cannot.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= NAME.len() {
        return Some((&[], name));
    }
    // The first slash that leaves a name short enough; what is before it must fit and must not be empty.
    let from = name.len().checked_sub(NAME.len() + 1)?;
    let slash = from + name[from..].iter().position(|byte| *byte == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (!prefix.is_empty() && prefix.len() <= PREFIX.len() && !rest.is_empty()).then_some((prefix, rest))
}

/// A PAX 1.0 map, padded to whole blocks. As in GNU tar it ends with an empty segment at the end of the file when
/// that ends with a hole.
fn sparse_map(size: u64, segments: &[super::Segment]) -> Vec<u8> {
    let hole = segments.last().is_none_or(|last| last.offset + last.len < size);
    let mut text = format!("{}\n", segments.len() + usize::from(hole));
    for segment in segments {
        text += &format!("{}\n{}\n", segment.offset, segment.len);
    }
    if hole {
        text += &format!("{size}\n0\n");
    }
    let mut map = text.into_bytes();
    let end = map.len() + padding(map.len() as u64) as usize;
    map.resize(end, 0);
    map
}
