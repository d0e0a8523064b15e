//! The value: type, source, options.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::overlay::Overlay;

/// Something to mount. Equal to containerd's `types.Mount` without its target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File system type: `overlay`, `bind`, or any that the kernel knows.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted: a directory for `bind`, the word `overlay` for an overlay.
    pub source: String,
    /// Options as mount(8) spells them, one string each.
    pub options: Vec<String>,
}

impl Mount {
    /// A recursive bind of the directory `source`.
    pub fn bind(source: &Path, read_only: bool) -> Mount {
        Mount {
            kind: "bind".into(),
            source: source.to_string_lossy().into_owned(),
            options: vec![if read_only { "ro" } else { "rw" }.into(), "rbind".into()],
        }
    }

    /// The same overlay, all of whose files have the SELinux label `label`, whatever is kept with them. What is no overlay
    /// shows the labels that are kept.
    pub fn labelled(&self, label: &str) -> Mount {
        let mut mount = self.clone();
        if mount.kind == "overlay" {
            mount.options.push(format!("context={label}"));
        }
        mount
    }

    /// An overlay of `lower` (topmost first), writable when `writable` names an upper and a work directory.
    /// `extra` options follow in the order given.
    pub fn overlay(lower: &[&Path], writable: Option<(&Path, &Path)>, extra: &[&str]) -> Mount {
        Overlay {
            lower: lower.iter().map(|path| path.to_path_buf()).collect(),
            writable: writable.map(|(upper, work)| (upper.to_path_buf(), work.to_path_buf())),
            extra: extra.iter().map(|option| (*option).to_owned()).collect(),
            ..Overlay::default()
        }
        .to_mount()
    }

    /// Whether nothing can be written through it.
    pub fn is_read_only(&self) -> bool {
        if self.options.iter().any(|option| option == "ro") {
            return true;
        }
        self.kind == "overlay" && !self.options.iter().any(|option| option.starts_with("upperdir="))
    }
}
