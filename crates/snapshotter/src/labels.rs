//! What labels ask of a snapshot when it is made.

use grpc::{Code, Status};
use store::{PrepareOptions, REF};

use crate::wire::Labels;

/// Where a snapshot's own directory is, told to who asks for it ([`crate::Options::upperdir_label`]).
pub(crate) const UPPERDIR: &str = "containerd.io/snapshot/overlay.upperdir";

/// Users and groups of a container in a user namespace, `<inside>:<outside>:<count>` with commas between several.
const UID_MAP: &str = "containerd.io/snapshot/uidmapping";
const GID_MAP: &str = "containerd.io/snapshot/gidmapping";

/// Bytes that a snapshot's own directory may take on disk: a number, or one with a unit (`512m`, `10g`).
pub(crate) const SIZE: &str = "containerd.io/snapshot/strata.size";

/// Reads them.
pub(crate) fn options(key: &str, labels: &Labels) -> Result<PrepareOptions, Status> {
    let invalid = |label: &str, value: &str, why: &str| {
        let text = format!("snapshot {key:?}: label {label}={value}: {why}");
        Status::new(Code::InvalidArgument, text)
    };
    let mut options = PrepareOptions {
        labels: labels.clone(),
        // With containerd's capability "rebase" each layer is unpacked by itself, and gets its parent when it is
        // committed. A layer's whiteouts are written as such to an overlay; in a bind they would be deletions of
        // what is not there.
        apart: labels.contains_key(REF),
        // Whoever asks for its mounts gets it back.
        remade: true,
        ..PrepareOptions::default()
    };
    // It is told, never kept: the directory may be another by then.
    options.labels.remove(UPPERDIR);
    match (labels.get(UID_MAP), labels.get(GID_MAP)) {
        (None, None) => {}
        (Some(users), Some(groups)) => {
            let root = |label: &str, map: &str| {
                root_of(map).ok_or_else(|| {
                    invalid(
                        label,
                        map,
                        "it is no mapping <inside>:<outside>:<count> that maps id 0",
                    )
                })
            };
            options.owner = Some((root(UID_MAP, users)?, root(GID_MAP, groups)?));
            options.uid_map = Some(users.clone());
            options.gid_map = Some(groups.clone());
        }
        (Some(users), None) => return Err(invalid(UID_MAP, users, &format!("{GID_MAP} goes with it"))),
        (None, Some(groups)) => return Err(invalid(GID_MAP, groups, &format!("{UID_MAP} goes with it"))),
    }
    if let Some(size) = labels.get(SIZE) {
        let bytes = bytes(size)
            .ok_or_else(|| invalid(SIZE, size, "it is no number of bytes, such as 512m or 10g"))?;
        options.size = Some(bytes);
    }
    Ok(options)
}

/// What id 0 is outside; `None` where the text is no mapping, or does not map it.
fn root_of(map: &str) -> Option<u32> {
    let mut root = None;
    for range in map.split(',') {
        let mut numbers = range.split(':').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let (inside, outside, count) = (next()?, next()?, next()?);
        if numbers.next().is_some() || count == 0 {
            return None;
        }
        inside.checked_add(count - 1)?;
        outside.checked_add(count - 1)?;
        if inside == 0 {
            root = Some(outside);
        }
    }
    root
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "ki" | "kib" => 1 << 10,
        "m" | "mb" | "mi" | "mib" => 1 << 20,
        "g" | "gb" | "gi" | "gib" => 1 << 30,
        "t" | "tb" | "ti" | "tib" => 1 << 40,
        _ => return None,
    };
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(factor)
        .filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<PrepareOptions, Status> {
        let labels = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        options("key", &labels.collect())
    }

    #[test]
    fn mappings() {
        let both = read(&[(UID_MAP, "0:1000:10,10:5000:5"), (GID_MAP, "5:7:1,0:2000:5")]).unwrap();
        assert_eq!(both.owner, Some((1000, 2000)));
        assert_eq!(both.uid_map.as_deref(), Some("0:1000:10,10:5000:5"));
        for map in [
            "",
            "0:1000",
            "0:1000:0",
            "0:1000:1:1",
            "1:1000:5",
            "0:4294967295:2",
            "a:b:c",
            "0:-1:1",
        ] {
            let error = read(&[(UID_MAP, map), (GID_MAP, "0:1:1")]).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(
                error.message.contains("uidmapping") && error.message.contains("\"key\""),
                "{error}"
            );
        }
        assert!(
            read(&[(UID_MAP, "0:1:1")])
                .unwrap_err()
                .message
                .contains("gidmapping")
        );
        assert!(
            read(&[(GID_MAP, "0:1:1")])
                .unwrap_err()
                .message
                .contains("uidmapping")
        );
    }

    #[test]
    fn sizes() {
        for (text, wanted) in [
            ("1", Some(1)),
            ("512m", Some(512 << 20)),
            ("10Gi", Some(10 << 30)),
            ("10GB", Some(10 << 30)),
            ("0", None),
            ("", None),
            ("m", None),
            ("1.5g", None),
            ("-1", None),
            ("99999999999t", None),
        ] {
            assert_eq!(read(&[(SIZE, text)]).ok().and_then(|o| o.size), wanted, "{text}");
        }
    }

    #[test]
    fn a_layer_is_unpacked_apart() {
        assert!(read(&[(REF, "sha256:abc")]).unwrap().apart);
        assert!(!read(&[("a", "b")]).unwrap().apart);
        assert!(read(&[(UPPERDIR, "/etc")]).unwrap().labels.is_empty());
    }
}
