//! The tar of a layer, made entry by entry, with as much or as little sense as a test wants.

use std::io::Cursor;

pub use tar::EntryType;
use tar::{Builder, Header};

/// Bytes of a layer's tar in the making. Names are written as they are given: `../x` stays `../x`.
pub struct Layer {
    tar: Builder<Vec<u8>>,
    /// Modification time of the entries that follow, seconds.
    mtime: u64,
}

impl Default for Layer {
    fn default() -> Self {
        Layer::new()
    }
}

impl Layer {
    /// A tar without entries.
    pub fn new() -> Layer {
        Layer {
            tar: Builder::new(Vec::new()),
            mtime: 1_700_000_000,
        }
    }

    /// The root file system of a small machine: busybox with a link for each of its tools, `root`, and a user
    /// `user` (1000:1000) who is also in the group `extra` (2000). From the package busybox-static.
    pub fn busybox() -> Layer {
        let program = std::fs::read("/bin/busybox").expect("/bin/busybox (package busybox-static)");
        let mut layer = Layer::new();
        for dir in [
            "bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var",
        ] {
            layer = layer.dir(dir, 0o755);
        }
        layer = layer
            .dir("root", 0o700)
            .dir("tmp", 0o1777)
            .dir("var/tmp", 0o1777)
            .file("bin/busybox", 0o755, program)
            .file(
                "etc/passwd",
                0o644,
                "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
            )
            .file("etc/group", 0o644, "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
            .entry(EntryType::Directory, "home/user", |header| {
                header.set_mode(0o755);
                header.set_uid(1000);
                header.set_gid(1000);
            });
        for tool in busybox_tools() {
            layer = layer.symlink(format!("bin/{tool}"), "busybox");
        }
        layer
    }

    /// The entries that follow were changed at `seconds` since 1970.
    pub fn mtime(mut self, seconds: u64) -> Layer {
        self.mtime = seconds;
        self
    }

    /// A directory of root's.
    pub fn dir(self, name: impl AsRef<str>, mode: u32) -> Layer {
        self.entry(EntryType::Directory, name, |header| header.set_mode(mode))
    }

    /// A regular file of root's.
    pub fn file(self, name: impl AsRef<str>, mode: u32, data: impl AsRef<[u8]>) -> Layer {
        self.entry_with(EntryType::Regular, name, data, |header| header.set_mode(mode))
    }

    /// A symbolic link, its target as given.
    pub fn symlink(self, name: impl AsRef<str>, target: impl AsRef<str>) -> Layer {
        self.linked(EntryType::Symlink, name.as_ref(), target.as_ref())
    }

    /// A further name of the file `target`, which names an entry of a tar, not a path.
    pub fn hard_link(self, name: impl AsRef<str>, target: impl AsRef<str>) -> Layer {
        self.linked(EntryType::Link, name.as_ref(), target.as_ref())
    }

    /// A character device.
    pub fn char_device(self, name: impl AsRef<str>, major: u32, minor: u32) -> Layer {
        self.device(EntryType::Char, name.as_ref(), major, minor)
    }

    /// A block device.
    pub fn block_device(self, name: impl AsRef<str>, major: u32, minor: u32) -> Layer {
        self.device(EntryType::Block, name.as_ref(), major, minor)
    }

    /// The mark that `name` is deleted: `.wh.` before its last part (OCI image-spec, layer.md).
    pub fn whiteout(self, name: impl AsRef<str>) -> Layer {
        let name = name.as_ref();
        let marked = match name.rsplit_once('/') {
            Some((dir, last)) => format!("{dir}/.wh.{last}"),
            None => format!(".wh.{name}"),
        };
        self.file(marked, 0, "")
    }

    /// The mark that a directory hides all that layers below have in it.
    pub fn opaque(self, dir: impl AsRef<str>) -> Layer {
        self.file(format!("{}/.wh..wh..opq", dir.as_ref()), 0, "")
    }

    /// A PAX extended header for the entry that follows.
    pub fn pax(mut self, key: &str, value: &[u8]) -> Layer {
        self.tar
            .append_pax_extensions([(key, value)])
            .expect("memory takes it");
        self
    }

    /// An entry without data, whose header `set` completes.
    pub fn entry(self, kind: EntryType, name: impl AsRef<str>, set: impl FnOnce(&mut Header)) -> Layer {
        self.entry_with(kind, name, [], set)
    }

    /// An entry with data, whose header `set` completes.
    pub fn entry_with(
        mut self,
        kind: EntryType,
        name: impl AsRef<str>,
        data: impl AsRef<[u8]>,
        set: impl FnOnce(&mut Header),
    ) -> Layer {
        let (name, data) = (name.as_ref(), data.as_ref());
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mtime(self.mtime);
        header.set_size(data.len() as u64);
        set(&mut header);
        if name.len() < 100 {
            // Past the builder's own checks, which refuse the names that a test of bad input is about.
            header.as_ustar_mut().expect("made as ustar").name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            self.tar
                .append(&header, Cursor::new(data))
                .expect("memory takes it");
        } else {
            self.tar
                .append_data(&mut header, name, Cursor::new(data))
                .expect("memory takes it");
        }
        self
    }

    /// The tar, complete.
    pub fn finish(self) -> Vec<u8> {
        self.tar.into_inner().expect("memory takes it")
    }

    fn linked(self, kind: EntryType, name: &str, target: &str) -> Layer {
        self.entry(kind, name, |header| {
            header.set_mode(0o777);
            header
                .set_link_name_literal(target)
                .expect("the target of a link in a test is short");
        })
    }

    fn device(self, kind: EntryType, name: &str, major: u32, minor: u32) -> Layer {
        self.entry(kind, name, |header| {
            header.set_mode(0o666);
            header.set_device_major(major).expect("ustar has device numbers");
            header.set_device_minor(minor).expect("ustar has device numbers");
        })
    }
}

fn busybox_tools() -> Vec<String> {
    let listed = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("/bin/busybox");
    let text = String::from_utf8(listed.stdout).expect("names of tools are text");
    text.lines()
        .filter(|name| *name != "busybox")
        .map(str::to_owned)
        .collect()
}
