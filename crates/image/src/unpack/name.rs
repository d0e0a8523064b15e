//! Names in a layer: made clean, and told apart from those that mean a whiteout.

/// What the last component of a name says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Special<'a> {
    /// Nothing special.
    None,
    /// `.wh.NAME`: what the layers below have under this name is gone.
    Whiteout(&'a [u8]),
    /// `.wh..wh..opq`: what the layers below have in this directory is gone.
    Opaque,
    /// Other names with `.wh..wh.`: aufs's own bookkeeping, which other unpackers skip too.
    Skip,
}

const WHITEOUT: &[u8] = b".wh.";
const META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Turns a name of the archive into a path beneath the layer's root: components joined by single slashes, nothing
/// for the root itself. `/` at the beginning is dropped, as every unpacker does; `..` takes a component back
/// without asking what it was, and is refused where it would leave the layer.
pub(super) fn clean(name: &[u8], longest: usize) -> Result<Vec<u8>, &'static str> {
    if name.contains(&0) {
        return Err("the name holds a NUL");
    }
    if name.len() > longest {
        return Err("the name is too long");
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                if path.is_empty() {
                    return Err("the name leaves the layer");
                }
                let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                path.truncate(parent);
            }
            component => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(path)
}

/// Splits a clean path into its parent (empty for the root) and its last component.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Recognizes whiteouts (OCI image-spec, layer.md, "Whiteouts") in a clean path.
pub(super) fn special(path: &[u8]) -> Result<Special<'_>, &'static str> {
    let (parent, name) = split(path);
    for component in parent.split(|byte| *byte == b'/') {
        if component.starts_with(META) {
            return Ok(Special::Skip);
        }
        if component.starts_with(WHITEOUT) {
            return Err("the name lies beneath a whiteout");
        }
    }
    Ok(match name.strip_prefix(WHITEOUT) {
        None => Special::None,
        Some(_) if name == OPAQUE => Special::Opaque,
        Some(_) if name.starts_with(META) => Special::Skip,
        Some(b"" | b"." | b"..") => return Err("a whiteout of nothing"),
        Some(hidden) => Special::Whiteout(hidden),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_or_refused() {
        type Case<'a> = (&'a [u8], Result<&'a [u8], &'a str>);
        let cases: [Case; 19] = [
            (b"a/b", Ok(b"a/b")),
            (b"./a//b/./", Ok(b"a/b")),
            (b"/etc/passwd", Ok(b"etc/passwd")),
            (b"///", Ok(b"")),
            (b"./", Ok(b"")),
            (b"", Ok(b"")),
            (b"a/..", Ok(b"")),
            (b"a/../b", Ok(b"b")),
            (b"a/b/../../c", Ok(b"c")),
            (b"...", Ok(b"...")),
            (b"a/..b", Ok(b"a/..b")),
            (b"\xff\xfe/\n", Ok(b"\xff\xfe/\n")),
            (b"..", Err("the name leaves the layer")),
            (b"../a", Err("the name leaves the layer")),
            (b"/../a", Err("the name leaves the layer")),
            (b"a/../../b", Err("the name leaves the layer")),
            (b"./..", Err("the name leaves the layer")),
            (b"a\0b", Err("the name holds a NUL")),
            (&[b'x'; 33], Err("the name is too long")),
        ];
        for (name, expected) in cases {
            let cleaned = clean(name, 32);
            assert_eq!(
                cleaned.as_deref().map_err(|e| *e),
                expected,
                "{}",
                name.escape_ascii()
            );
        }
    }

    #[test]
    fn whiteouts_are_told_apart() {
        let cases: [(&[u8], Result<Special, &str>); 12] = [
            (b"a", Ok(Special::None)),
            (b"a/.wh", Ok(Special::None)),
            (b"a.wh.b", Ok(Special::None)),
            (b"a/.wh.b", Ok(Special::Whiteout(b"b"))),
            (b".wh..hidden", Ok(Special::Whiteout(b".hidden"))),
            (b".wh..wh..opq", Ok(Special::Opaque)),
            (b"a/.wh..wh..opq", Ok(Special::Opaque)),
            (b".wh..wh.plnk", Ok(Special::Skip)),
            (b".wh..wh.plnk/12.34", Ok(Special::Skip)),
            (b"a/.wh.b/c", Err("the name lies beneath a whiteout")),
            (b".wh.", Err("a whiteout of nothing")),
            (b"a/.wh...", Err("a whiteout of nothing")),
        ];
        for (path, expected) in cases {
            assert_eq!(special(path), expected, "{}", path.escape_ascii());
        }
    }
}
