//! The Debian packages that tests and benchmarks use. Building needs none of them.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Every package, with what it is for. The one list: the README and CI refer to it.
const PACKAGES: &[(&str, &str)] = &[
    ("acl", "setfacl and getfacl: access control lists through layers"),
    (
        "apparmor",
        "apparmor_parser: loads profiles in the virtual machine",
    ),
    (
        "attr",
        "setfattr and getfattr: extended attributes through layers",
    ),
    (
        "binutils",
        "strip: smaller test programs on the virtual machine's disk",
    ),
    (
        "btrfs-progs",
        "mkfs.btrfs: power cuts, and files that share blocks",
    ),
    ("buildah", "makes images of many layers with whiteouts"),
    (
        "busybox-static",
        "the root file system of small containers, and the virtual machine's user land",
    ),
    (
        "containerd",
        "keeps its snapshots in our store, and is to be compared with",
    ),
    ("containernetworking-plugins", "makes the networks of containers"),
    (
        "crun",
        "a runtime to run our bundles with, and to be compared with",
    ),
    ("docker-registry", "a real registry to pull from"),
    ("dosfstools", "mkfs.vfat: layers without owners and attributes"),
    (
        "e2fsprogs",
        "mkfs.ext4: disks for the virtual machine and for loop mounts",
    ),
    ("fio", "writes in every way, and reads back by checksums"),
    ("fuse-overlayfs", "to be compared with"),
    ("gcc", "compiles something on an overlay"),
    ("git", "looks at a repository on an overlay"),
    (
        "iproute2",
        "looks at interfaces, and makes those of a test's network",
    ),
    ("iptables", "what publishes ports and keeps networks apart"),
    (
        "libcap2-bin",
        "setcap and getcap: file capabilities through layers",
    ),
    ("linux-image-cloud-amd64", "the kernel of the virtual machine"),
    ("mmdebstrap", "makes a real Debian root file system"),
    ("passt", "pasta: the network of an ordinary user's containers"),
    ("podman", "to be compared with"),
    (
        "procps",
        "ps, which strata top asks where it is given options; kill",
    ),
    ("qemu-system-x86", "the virtual machine"),
    ("secilc", "compiles an SELinux policy in the virtual machine"),
    (
        "runc",
        "a runtime to run our bundles with, and to be compared with",
    ),
    ("secilc", "compiles an SELinux policy in the virtual machine"),
    ("skopeo", "fills the registry and writes archives of every kind"),
    ("stress-ng", "its file-system stressors"),
    (
        "strace",
        "counts system calls, and kills a server between two of them",
    ),
    ("systemd", "systemd-analyze: looks at the unit that is shipped"),
    ("time", "what a program took of processors and memory"),
    (
        "uidmap",
        "newuidmap and newgidmap: containers of an ordinary user",
    ),
    ("umoci", "an unpacker to be compared with"),
    (
        "xfsprogs",
        "mkfs.xfs: project quotas, and files that share blocks",
    ),
    ("xz-utils", "archives"),
    ("zstd", "archives"),
];

/// Installs what is missing, and says so first. Does nothing, without touching the network, when all are there.
pub(crate) fn install_missing() -> Result<()> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing from Debian: {}", missing.join(" "));
    apt(&["update", "-q"])?;
    let mut install = vec!["install", "-q", "-y", "--no-install-recommends"];
    install.extend(&missing);
    apt(&install)
}

fn missing() -> Result<Vec<&'static str>> {
    let mut missing = Vec::new();
    for (package, _) in PACKAGES {
        let status = Command::new("dpkg-query")
            .args(["-W", "-f=${db:Status-Status}", package])
            .stderr(Stdio::null())
            .output()
            .context(
                "dpkg-query: the tests install what they need from Debian, and this is not a Debian system",
            )?;
        if status.stdout != b"installed" {
            missing.push(*package);
        }
    }
    Ok(missing)
}

fn apt(args: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // No services: a package that would start one is told not to.
        .env("RUNLEVEL", "1")
        .stdout(Stdio::null())
        .status()
        .context("apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", args.join(" "));
    }
    Ok(())
}
