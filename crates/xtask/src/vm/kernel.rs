//! Finds Debian's cloud kernel and the modules that the machine needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Modules loaded before anything else, besides what is built in (ext4, tmpfs, cgroups, message queues).
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "fuse",
    "loop",
    "quota_v2",
    "xfs",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nfsd",
    "nfsv4",
];

/// A kernel in `/boot`, with its modules in the order in which they load.
pub(crate) struct Kernel {
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    pub(crate) modules: Vec<PathBuf>,
}

/// The newest cloud kernel that is installed.
pub(crate) fn find() -> Result<Kernel> {
    if !cfg!(target_arch = "x86_64") {
        bail!(
            "the virtual machine is x86-64 only\nhint: `cargo xtask test --no-vm` runs all the other tests"
        );
    }
    let mut found: Vec<(Vec<u32>, String)> = std::fs::read_dir("/boot")
        .context("/boot")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_prefix("vmlinuz-").map(str::to_owned))
        .filter(|release| release.ends_with("-cloud-amd64"))
        .map(|release| (numbers(&release), release))
        .collect();
    found.sort();
    let (_, release) = found
        .pop()
        .context("no vmlinuz-*-cloud-amd64 in /boot (package linux-image-cloud-amd64)")?;
    let image = Path::new("/boot").join(format!("vmlinuz-{release}"));
    let dir = Path::new("/lib/modules").join(&release);
    let index_path = dir.join("modules.dep");
    let index = std::fs::read_to_string(&index_path).with_context(|| index_path.display().to_string())?;
    let modules = load_order(&index, MODULES)?
        .into_iter()
        .map(|module| dir.join(module))
        .collect();
    Ok(Kernel {
        release,
        image,
        modules,
    })
}

/// `6.1.0-56-cloud-amd64` → 6, 1, 0, 56, 64, so that 56 comes after 9.
fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

/// The wanted modules and what they depend on, dependencies first. Each line of modules.dep(5) is `path: path …`,
/// the paths after the colon in the reverse of the order they load in.
fn load_order(index: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        let file = format!("/{name}.ko");
        let line = index
            .lines()
            .find(|line| line.split(':').next().is_some_and(|path| path.ends_with(&file)))
            .with_context(|| format!("the kernel has no module {name}"))?;
        let (module, needs) = line.split_once(':').unwrap_or((line, ""));
        for module in needs.split_whitespace().rev().chain([module]) {
            if seen.insert(module) {
                order.push(module.to_owned());
            }
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::{load_order, numbers};

    #[test]
    fn dependencies_load_first_and_once() {
        let index = "k/a.ko: k/b.ko k/c.ko\nk/b.ko: k/c.ko\nk/c.ko:\nk/d.ko: k/c.ko\n";
        assert_eq!(
            load_order(index, &["a", "d"]).unwrap(),
            ["k/c.ko", "k/b.ko", "k/a.ko", "k/d.ko"]
        );
        assert!(load_order(index, &["e"]).is_err());
    }

    #[test]
    fn newest_kernel_is_by_number() {
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
    }
}
