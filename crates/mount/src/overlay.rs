//! The options of an overlay, between one string each and their parts.
//!
//! overlayfs separates lower directories by `:` and takes `\` as its escape (`Documentation/filesystems/
//! overlayfs.rst`, "Multiple lower layers"). mount(2) separates options by `,`, which the same escape protects.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::Mount;

/// The parts of an overlay mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Lower directories, topmost first.
    pub lower: Vec<PathBuf>,
    /// Data-only lower directories (`::`), searched for the data of metadata-only files.
    pub data: Vec<PathBuf>,
    /// Upper and work directory; without them the overlay is read-only.
    pub writable: Option<(PathBuf, PathBuf)>,
    /// Every other option, as given.
    pub extra: Vec<String>,
}

/// Puts a `\` before every byte of `path` that is in `special`.
pub fn escape(path: &Path, special: &[u8]) -> OsString {
    let mut escaped = Vec::with_capacity(path.as_os_str().len());
    for byte in path.as_os_str().as_bytes() {
        if special.contains(byte) {
            escaped.push(b'\\');
        }
        escaped.push(*byte);
    }
    OsString::from_vec(escaped)
}

/// Takes one level of `\` away.
pub fn unescape(text: &OsStr) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        let byte = if *byte == b'\\' {
            bytes.next().unwrap_or(byte)
        } else {
            byte
        };
        plain.push(*byte);
    }
    PathBuf::from(OsString::from_vec(plain))
}

/// Splits at every `separator` that no `\` protects; the escapes stay in the parts.
fn split(text: &[u8], separator: u8) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            byte if byte == separator => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&text[start.min(text.len())..]);
    parts
}

/// Whether a list of lower directories has a part without a name where the kernel takes none: at its ends, or before another.
pub fn has_a_gap(lower: &str) -> bool {
    let parts = split(lower.as_bytes(), b':');
    let empty = |part: Option<&&[u8]>| part.is_some_and(|part| part.is_empty());
    empty(parts.first())
        || empty(parts.last())
        || parts.windows(2).any(|two| two.iter().all(|part| part.is_empty()))
}

/// Options that say an SELinux label, in which marks (`"`) keep commas together where a string holds several options.
const LABELS: [&str; 4] = ["context=", "fscontext=", "defcontext=", "rootcontext="];

/// Whether an option says an SELinux label.
pub(crate) fn is_label(option: &str) -> bool {
    LABELS.iter().any(|key| option.starts_with(key))
}

/// Splits an option string as mount(8) takes it, `a=1,b=2`, where `\,` is a comma of a value, and so is one between the
/// marks of a label.
pub fn split_options(text: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    let open = |option: &str| {
        let (_, value) = option.split_once('=').unwrap_or_default();
        is_label(option) && value.starts_with('"') && (value.len() < 2 || !value.ends_with('"'))
    };
    for part in split(text.as_bytes(), b',') {
        let part = String::from_utf8_lossy(part).replace("\\,", ",");
        match options.last_mut() {
            Some(last) if open(last) => *last = format!("{last},{part}"),
            _ => options.push(part),
        }
    }
    options.retain(|option| !option.is_empty());
    for option in options.iter_mut().filter(|option| is_label(option)) {
        *option = option.replace('"', "");
    }
    options
}

impl Overlay {
    /// Reads the options of an overlay mount. An option given twice takes its last value, as in the kernel;
    /// `lowerdir` empties what was there before.
    pub fn parse(options: &[String]) -> Overlay {
        let mut overlay = Overlay::default();
        let (mut upper, mut work) = (None, None);
        for option in options {
            match option.split_once('=') {
                Some(("lowerdir", value)) => overlay.set_lower(value),
                Some(("lowerdir+", value)) => overlay.lower.push(value.into()),
                Some(("datadir+", value)) => overlay.data.push(value.into()),
                Some(("upperdir", value)) => upper = Some(unescape(value.as_ref())),
                Some(("workdir", value)) => work = Some(unescape(value.as_ref())),
                _ => overlay.extra.push(option.clone()),
            }
        }
        overlay.writable = upper.zip(work);
        overlay
    }

    /// `a:b::data`: an empty part says that what follows it is data-only.
    fn set_lower(&mut self, value: &str) {
        self.lower.clear();
        self.data.clear();
        let mut data_next = false;
        for part in split(value.as_bytes(), b':') {
            if part.is_empty() {
                data_next = true;
                continue;
            }
            let path = unescape(OsStr::from_bytes(part));
            if data_next || !self.data.is_empty() {
                self.data.push(path)
            } else {
                self.lower.push(path)
            }
            data_next = false;
        }
    }

    /// The value with its options in containerd's order: work, upper, lower, the rest.
    pub fn to_mount(&self) -> Mount {
        let mut options = Vec::with_capacity(self.extra.len() + 3);
        if let Some((upper, work)) = &self.writable {
            options.push(joined("workdir=", &escape(work, b"\\")));
            options.push(joined("upperdir=", &escape(upper, b"\\")));
        }
        options.push(joined("lowerdir=", &self.lower_string(b"\\:")));
        options.extend(self.extra.iter().cloned());
        Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            options,
        }
    }

    /// Lower directories as one string, with `special` bytes of each path escaped.
    fn lower_string(&self, special: &[u8]) -> OsString {
        let mut text = OsString::new();
        for (separator, paths) in [(":", &self.lower), ("::", &self.data)] {
            for path in paths {
                if !text.is_empty() {
                    text.push(separator);
                }
                text.push(escape(path, special));
            }
        }
        text
    }

    /// The one string that mount(2) takes, with each path below `base` made relative to it.
    pub(crate) fn mount2_data(&self, base: Option<&Path>) -> OsString {
        let relative = |path: &Path| match base.and_then(|base| path.strip_prefix(base).ok()) {
            Some(rest) => rest.to_path_buf(),
            None => path.to_path_buf(),
        };
        let short = Overlay {
            lower: self.lower.iter().map(|path| relative(path)).collect(),
            data: self.data.iter().map(|path| relative(path)).collect(),
            ..Overlay::default()
        };
        // A comma ends an option, a backslash protects; both levels of the kernel's parser share one escape.
        let mut data = OsString::from("lowerdir=");
        data.push(short.lower_string(b"\\:,"));
        if let Some((upper, work)) = &self.writable {
            data.push(",upperdir=");
            data.push(escape(&relative(upper), b"\\,"));
            data.push(",workdir=");
            data.push(escape(&relative(work), b"\\,"));
        }
        for option in &self.extra {
            data.push(",");
            match option.split_once('=') {
                Some((key, label)) if is_label(option) => data.push(format!("{key}=\"{label}\"")),
                _ => data.push(option),
            }
        }
        data
    }
}

fn joined(key: &str, value: &OsStr) -> String {
    format!("{key}{}", value.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> Vec<PathBuf> {
        list.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn options_survive_the_way_there_and_back() {
        let overlay = Overlay {
            lower: paths(&["/a:b", "/c\\d", "/e,f"]),
            data: paths(&["/data:1"]),
            writable: Some(("/u:p,p\\er".into(), "/work".into())),
            extra: vec!["index=off".into(), "volatile".into()],
        };
        assert_eq!(Overlay::parse(&overlay.to_mount().options), overlay);
    }

    #[test]
    fn the_commas_of_a_label() {
        let label = "context=a:b:c:s0:c1,c2";
        assert_eq!(
            split_options("ro,context=\"a:b:c:s0:c1,c2\",index=off"),
            ["ro", label, "index=off"]
        );
        assert_eq!(split_options("context=a:b:c:s0:c1\\,c2,ro"), [label, "ro"]);
        assert_eq!(split_options("rootcontext=a:b:c,ro"), ["rootcontext=a:b:c", "ro"]);
        // Of any other option it is an ordinary letter.
        assert_eq!(split_options("lowerdir=\"a,ro"), ["lowerdir=\"a", "ro"]);
        let mount = Mount::overlay(&["/a".as_ref()], None, &[label, "ro"]);
        assert_eq!(
            Overlay::parse(&mount.options).mount2_data(None),
            "lowerdir=/a,context=\"a:b:c:s0:c1,c2\",ro"
        );
        assert_eq!(mount.labelled("d:e:f:s0").options[3], "context=d:e:f:s0");
        let bind = Mount::bind("/a".as_ref(), false);
        assert_eq!(bind.labelled("d:e:f:s0"), bind);
    }

    #[test]
    fn containerd_order() {
        let mount = Mount::overlay(
            &["/s/2/fs".as_ref(), "/s/1/fs".as_ref()],
            Some(("/s/3/fs".as_ref(), "/s/3/work".as_ref())),
            &["index=off"],
        );
        let wanted = [
            "workdir=/s/3/work",
            "upperdir=/s/3/fs",
            "lowerdir=/s/2/fs:/s/1/fs",
            "index=off",
        ];
        assert_eq!(mount.options, wanted);
        assert!(!mount.is_read_only());
        assert!(Mount::overlay(&["/a".as_ref(), "/b".as_ref()], None, &[]).is_read_only());
    }

    #[test]
    fn data_only_layers() {
        let overlay = Overlay::parse(&["lowerdir=/a:/b::/c::/d".into()]);
        assert_eq!(overlay.lower, paths(&["/a", "/b"]));
        assert_eq!(overlay.data, paths(&["/c", "/d"]));
    }

    #[test]
    fn gaps() {
        for (lower, gap) in [
            ("/a", false),
            ("/a:/b", false),
            ("/a::/b", false),
            (r"/a\:", false),
            ("", true),
            (":/a", true),
            ("/a:", true),
            ("/a:::/b", true),
        ] {
            assert_eq!(has_a_gap(lower), gap, "{lower}");
        }
    }

    #[test]
    fn the_last_lowerdir_wins() {
        let overlay = Overlay::parse(&["lowerdir=/a:/b".into(), "lowerdir=/c".into(), "ro".into()]);
        assert_eq!(
            (overlay.lower, overlay.extra),
            (paths(&["/c"]), vec!["ro".to_owned()])
        );
    }

    #[test]
    fn mount2_string_is_shortened_by_a_base() {
        let overlay = Overlay {
            lower: paths(&["/s/2/fs", "/s/1/fs"]),
            writable: Some(("/s/3/fs".into(), "/s/3/work".into())),
            ..Overlay::default()
        };
        let data = overlay.mount2_data(Some("/s".as_ref()));
        assert_eq!(data, "lowerdir=2/fs:1/fs,upperdir=3/fs,workdir=3/work");
    }

    #[test]
    fn option_strings_split_at_bare_commas() {
        assert_eq!(
            split_options("ro,lowerdir=/a\\,b:/c,,index=off"),
            ["ro", "lowerdir=/a,b:/c", "index=off"]
        );
    }
}
