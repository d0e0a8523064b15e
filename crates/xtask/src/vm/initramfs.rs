//! The first file system that the kernel sees: a shell and the modules that it needs to reach the disk.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use super::kernel::Kernel;

/// Loads the modules in the order of their names, mounts the disk with project quotas, and goes there; the last line names the
/// first process there.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t devtmpfs dev /dev
for module in /modules/*; do
    insmod "$module" || echo "insmod $module failed"
done
mount -t ext4 -o prjquota /dev/vda /root || { echo "no disk"; poweroff -f; }
umount /proc
mount --move /dev /root/dev
exec switch_root /root "#;

/// Writes an archive that the kernel unpacks at boot; `first` is the first process on the disk.
pub(crate) fn write(to: &Path, kernel: &Kernel, first: &str) -> Result<()> {
    let file = File::create(to).with_context(|| to.display().to_string())?;
    let mut cpio = Cpio {
        out: BufWriter::new(file),
        entries: 0,
    };
    for dir in ["bin", "dev", "modules", "proc", "root"] {
        cpio.entry(dir, 0o040_755, &[])?;
    }
    cpio.entry("bin/busybox", 0o100_755, &read("/bin/busybox".as_ref())?)?;
    for link in ["sh", "insmod", "mount", "umount", "poweroff", "switch_root"] {
        cpio.entry(&format!("bin/{link}"), 0o120_777, b"busybox")?;
    }
    for (at, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        cpio.entry(&format!("modules/{at:02}-{name}"), 0o100_644, &read(module)?)?;
    }
    cpio.entry("init", 0o100_755, format!("{INIT}{first}\n").as_bytes())?;
    cpio.finish()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// Writes the "newc" form of cpio: the one that the kernel reads (Documentation/driver-api/early-userspace/
/// buffer-format.rst). Every number is eight hexadecimal digits; names and data are padded to four bytes.
struct Cpio<W: Write> {
    out: W,
    entries: u32,
}

impl<W: Write> Cpio<W> {
    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entries += 1;
        let size =
            u32::try_from(data.len()).with_context(|| format!("{name} is too large for an initramfs"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        self.out.write_all(b"070701")?;
        // inode, mode, uid, gid, links, mtime, size, device (two), device node (two), name size, checksum
        for field in [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        self.out
            .write_all(&[0; 3][..written.next_multiple_of(4) - written])?;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Cpio;

    #[test]
    fn entries_are_padded_to_four_bytes() {
        let mut cpio = Cpio {
            out: Vec::new(),
            entries: 0,
        };
        cpio.entry("a", 0o100_644, b"12345").unwrap();
        assert_eq!(cpio.out.len(), 112 + 8);
        assert_eq!(&cpio.out[..6], b"070701");
        assert_eq!(&cpio.out[54..62], b"00000005");
        assert_eq!(&cpio.out[110..120], b"a\x0012345\0\0\0");
    }
}
