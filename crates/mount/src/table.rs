//! What is mounted: `/proc/self/mountinfo`, taken apart (proc_pid_mountinfo(5)).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Id of the mount, unique while it lives.
    pub id: u64,
    /// Id of the mount it lies on.
    pub parent: u64,
    /// `major:minor` of the file system.
    pub device: String,
    /// Directory within the file system that is the root of this mount.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Options of the mount, comma-separated.
    pub options: String,
    /// Type of the file system.
    pub kind: String,
    /// What is mounted, as the one who mounted it put it.
    pub source: OsString,
    /// Options of the file system, comma-separated.
    pub super_options: OsString,
}

/// All mounts of the calling process's mount namespace, in the kernel's order: a mount stands after the one it
/// lies on.
pub fn read() -> io::Result<Vec<Entry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The topmost mount at exactly `target`.
pub fn at(target: &Path) -> io::Result<Option<Entry>> {
    Ok(read()?.into_iter().rev().find(|entry| entry.target == target))
}

/// Reads mountinfo's text; a line that is not of its form is passed over.
pub fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(text: &[u8]) -> Option<Entry> {
    let mut fields = text.split(|byte| *byte == b' ');
    let mut next = || fields.next();
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let string = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let device = string(next()?);
    let root = unescape(next()?).into();
    let target = unescape(next()?).into();
    let options = string(next()?);
    // Zero or more optional fields (shared:N, master:N) end with a lone dash.
    while next()? != b"-" {}
    let kind = string(next()?);
    let source = unescape(next()?);
    let super_options = unescape(next()?);
    Some(Entry {
        id,
        parent,
        device,
        root,
        target,
        options,
        kind,
        source,
        super_options,
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and hash.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, tail @ ..] = rest {
        if let ([b'\\', a, b, c, tail @ ..], true) = (rest, rest.len() >= 4)
            && let Some(value) = octal(*a, *b, *c)
        {
            plain.push(value);
            rest = tail;
            continue;
        }
        plain.push(*byte);
        rest = tail;
    }
    OsString::from_vec(plain)
}

fn octal(a: u8, b: u8, c: u8) -> Option<u8> {
    let digit = |byte: u8| (b'0'..=b'7').contains(&byte).then(|| u32::from(byte - b'0'));
    u8::try_from(digit(a)? * 64 + digit(b)? * 8 + digit(c)?).ok()
}

impl Entry {
    /// Value of `key=` among the file system's options, escapes kept.
    pub fn super_option(&self, key: &str) -> Option<&OsStr> {
        self.super_options
            .as_bytes()
            .split(|byte| *byte == b',')
            .find_map(|option| {
                let value = option.strip_prefix(key.as_bytes())?.strip_prefix(b"=")?;
                Some(OsStr::from_bytes(value))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_everything() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - overlay over\\011lay \
            rw,lowerdir=/a:/b,upperdir=/u\n\nnonsense\n";
        let entries = parse(text);
        assert_eq!(entries.len(), 1);
        let entry = &entries[0];
        assert_eq!((entry.id, entry.parent, entry.device.as_str()), (36, 35, "98:0"));
        assert_eq!(
            (entry.root.as_path(), entry.target.as_path()),
            ("/mnt1".as_ref(), "/mnt 2".as_ref())
        );
        assert_eq!(
            (entry.kind.as_str(), entry.source.as_os_str()),
            ("overlay", "over\tlay".as_ref())
        );
        assert_eq!(entry.super_option("lowerdir"), Some("/a:/b".as_ref()));
        assert_eq!(entry.super_option("workdir"), None);
    }

    #[test]
    fn this_process_has_a_root() {
        assert!(read().unwrap().iter().any(|entry| entry.target == Path::new("/")));
    }
}
