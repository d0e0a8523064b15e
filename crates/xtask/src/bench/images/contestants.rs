//! Who unpacks: strata, the peers as their own manuals say, and the floor.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::containerd::Containerd;
use super::material::Material;
use crate::bench::Release;

/// Where the image comes from.
#[derive(Clone, Copy)]
pub(super) enum From<'a> {
    /// One file (for umoci, which reads no archive, the layout that is in it).
    File,
    /// A registry on this host and port.
    Registry(&'a str),
}

/// What one unpacking took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    pub(super) wall: Duration,
    /// Of its processes; what the kernel does for them afterwards is nobody's.
    pub(super) cpu: Duration,
    /// Of its largest process, in KiB.
    pub(super) memory: u64,
}

pub(super) enum Contestant {
    Floor { program: PathBuf, sync: bool },
    Strata(PathBuf),
    Podman,
    Skopeo,
    Umoci,
    Containerd(Containerd),
}

impl Contestant {
    /// All of them, and why one is missing.
    pub(super) fn all(release: &Release) -> (Vec<Contestant>, Vec<String>) {
        let floor = |sync| Contestant::Floor {
            program: release.floor_unpack.clone(),
            sync,
        };
        let mut all = vec![
            floor(false),
            floor(true),
            Contestant::Strata(release.strata.clone()),
            Contestant::Podman,
            Contestant::Skopeo,
            Contestant::Umoci,
        ];
        let mut absent = Vec::new();
        for found in [Containerd::of_debian_12(), Containerd::of_sid()] {
            match found {
                Ok(containerd) => all.push(Contestant::Containerd(containerd)),
                Err(error) => absent.push(format!("containerd: {error:#}")),
            }
        }
        (all, absent)
    }

    pub(super) fn name(&self) -> String {
        match self {
            Contestant::Floor { sync: false, .. } => "floor".into(),
            Contestant::Floor { sync: true, .. } => "floor, synced".into(),
            Contestant::Strata(_) => "strata".into(),
            Contestant::Podman => "podman".into(),
            Contestant::Skopeo => "skopeo".into(),
            Contestant::Umoci => "umoci".into(),
            Contestant::Containerd(containerd) => format!("containerd {}", containerd.version),
        }
    }

    pub(super) fn is_peer(&self) -> bool {
        !matches!(self, Contestant::Floor { .. } | Contestant::Strata(_))
    }

    /// Unpacks an image on the file system at `disk`; answers what it cost and where the files are.
    pub(super) fn unpack(
        &self,
        image: &Material,
        from: From<'_>,
        disk: &Path,
    ) -> Result<(Cost, Vec<PathBuf>)> {
        let remote = |host: &str| format!("{host}/{}:latest", image.tag);
        let archive = image.archive.display().to_string();
        let layout = format!("{}:{}", image.layout.display(), image.tag);
        let storage = |name: &str| vec![format!("--{name}={}", disk.join(name).display())];
        match self {
            Contestant::Floor { program, sync } => {
                let mut command = Command::new(program);
                command.arg(disk.join("floor")).args(sync.then_some("--sync"));
                let cost = timed(command.args(&image.blobs), disk)?;
                Ok((cost, vec![disk.join("floor")]))
            }
            Contestant::Strata(program) => {
                let mut command = Command::new(program);
                command
                    .env("STRATA_ROOT", disk.join("root"))
                    .env("STRATA_STATE", disk.join("state"))
                    .env("STRATA_CONFIG", "/dev/null");
                match from {
                    From::File => command.args(["load", "-i", &archive]),
                    From::Registry(host) => command.args(["pull", &remote(host)]),
                };
                Ok((
                    timed(&mut command, disk)?,
                    beneath(&disk.join("root/snapshots"), "fs")?,
                ))
            }
            Contestant::Podman => {
                let mut command = Command::new("podman");
                command.args([storage("root"), storage("runroot")].concat());
                command.args(["--storage-driver=overlay", "--cgroup-manager=cgroupfs"]);
                match from {
                    From::File => command.args(["load", "-i", &archive]),
                    From::Registry(host) => command.args(["pull", "--tls-verify=false", &remote(host)]),
                };
                Ok((
                    timed(&mut command, disk)?,
                    beneath(&disk.join("root/overlay"), "diff")?,
                ))
            }
            Contestant::Skopeo => {
                let mut command = Command::new("skopeo");
                command.args(["--insecure-policy", "copy"]);
                match from {
                    From::File => command.arg(format!("oci-archive:{archive}")),
                    From::Registry(host) => {
                        command.args(["--src-tls-verify=false", &format!("docker://{}", remote(host))])
                    }
                };
                let store = format!(
                    "[overlay@{0}/root+{0}/runroot]localhost/{1}:latest",
                    disk.display(),
                    image.tag
                );
                command.arg(format!("containers-storage:{store}"));
                Ok((
                    timed(&mut command, disk)?,
                    beneath(&disk.join("root/overlay"), "diff")?,
                ))
            }
            Contestant::Umoci => {
                // It speaks with no registry: skopeo fetches the layout for it.
                let (fetched, layout) = match from {
                    From::File => (Cost::default(), layout),
                    From::Registry(host) => {
                        let to = format!("{}:latest", disk.join("layout").display());
                        let mut command = Command::new("skopeo");
                        command.args(["--insecure-policy", "copy", "--src-tls-verify=false"]);
                        command.args([format!("docker://{}", remote(host)), format!("oci:{to}")]);
                        (timed(&mut command, disk)?, to)
                    }
                };
                let mut command = Command::new("umoci");
                command
                    .args(["unpack", "--image", &layout])
                    .arg(disk.join("bundle"));
                let unpacked = timed(&mut command, disk)?;
                let cost = Cost {
                    wall: fetched.wall + unpacked.wall,
                    cpu: fetched.cpu + unpacked.cpu,
                    memory: fetched.memory.max(unpacked.memory),
                };
                Ok((cost, vec![disk.join("bundle/rootfs")]))
            }
            Contestant::Containerd(containerd) => {
                let daemon = containerd.start(disk)?;
                let mut command = daemon.ctr();
                match from {
                    From::File => command.args(["image", "import", "--base-name", "bench/image"]),
                    From::Registry(_) => command.args(["image", "pull", "--plain-http"]),
                };
                command
                    .args(containerd.local)
                    .args(["--snapshotter", "overlayfs"]);
                match from {
                    From::File => command.arg(&archive),
                    From::Registry(host) => command.arg(remote(host)),
                };
                let mut cost = timed(&mut command, disk)?;
                let (cpu, memory) = daemon.cost()?;
                cost.cpu += cpu;
                cost.memory = cost.memory.max(memory);
                Ok((cost, beneath(&daemon.snapshots(), "fs")?))
            }
        }
    }
}

/// `DIR/*/NAME`, where it is a directory.
fn beneath(dir: &Path, name: impl AsRef<OsStr>) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let found = entries.flatten().map(|entry| entry.path().join(name.as_ref()));
    Ok(found.filter(|path| path.is_dir()).collect())
}

/// Runs a command by GNU time, whose own cost is nothing beside these.
fn timed(command: &mut Command, disk: &Path) -> Result<Cost> {
    let (figures, temporary) = (disk.join("figures"), disk.join("tmp"));
    fs::create_dir_all(&temporary)?;
    let mut by_time = Command::new("time");
    by_time.args(["-f", "%U %S %M", "-o"]).arg(&figures);
    by_time.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        by_time.env(name, value.unwrap_or_default());
    }
    // What they write for a while lies on the same disk.
    by_time.env("TMPDIR", &temporary).stdin(Stdio::null());
    let started = Instant::now();
    let output = by_time.output().context("time: install the package time")?;
    let wall = started.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{command:?} ended with {}: {said}", output.status);
    }
    let text = fs::read_to_string(&figures)?;
    let numbers: Vec<f64> = text
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [user, system, memory] = numbers[..] else {
        bail!("time said {text:?}");
    };
    Ok(Cost {
        wall,
        cpu: Duration::from_secs_f64(user + system),
        memory: memory as u64,
    })
}
