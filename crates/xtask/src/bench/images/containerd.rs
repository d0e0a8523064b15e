//! containerd, twice: as Debian 12 has it, and the newest that Debian has, each time with a socket, root and state of
//! its own.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;

/// One containerd.
pub(super) struct Containerd {
    pub(super) version: String,
    /// Where `containerd` and `ctr` are.
    programs: PathBuf,
    /// From version 2 on, `ctr` must be told to unpack by itself as before.
    pub(super) local: Option<&'static str>,
}

impl Containerd {
    pub(super) fn of_debian_12() -> Result<Containerd> {
        Containerd::at(Path::new("/usr/bin"))
    }

    /// Taken from Debian's unstable package, once, into the target directory; installed nowhere.
    pub(super) fn of_sid() -> Result<Containerd> {
        let dir = build::target_dir().join("peers/containerd");
        let programs = dir.join("unpacked/usr/bin");
        if !programs.join("containerd").exists() {
            println!("fetching the newest containerd from Debian");
            fetch(&dir).context("no package of a newer one")?;
        }
        Containerd::at(&programs)
    }

    fn at(programs: &Path) -> Result<Containerd> {
        let output = Command::new(programs.join("containerd"))
            .arg("--version")
            .output()
            .with_context(|| programs.display().to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .split_whitespace()
            .find(|word| {
                word.trim_start_matches('v')
                    .starts_with(|c: char| c.is_ascii_digit())
            })
            .with_context(|| format!("it tells no version: {text:?}"))?;
        let version = version.trim_start_matches('v');
        let version = version
            .split(['~', '+', '-'])
            .next()
            .unwrap_or(version)
            .to_owned();
        Ok(Containerd {
            local: version.starts_with('2').then_some("--local"),
            version,
            programs: programs.to_owned(),
        })
    }

    /// Starts it with everything on `disk`.
    pub(super) fn start(&self, disk: &Path) -> Result<Daemon> {
        let dir = disk.join("containerd");
        fs::create_dir_all(&dir)?;
        let path = |name: &str| dir.join(name).display().to_string();
        let (socket, root, state) = (path("socket"), path("root"), path("state"));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n"
        );
        fs::write(path("config.toml"), config)?;
        let log = fs::File::create(path("log"))?;
        let child = Command::new(self.programs.join("containerd"))
            .args(["--config", &path("config.toml"), "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("containerd")?;
        let mut daemon = Daemon {
            child,
            ctr: self.programs.join("ctr"),
            dir,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&socket).is_err() {
            if daemon.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!(
                    "containerd does not start: {}",
                    fs::read_to_string(daemon.dir.join("log"))?
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }
}

/// A running containerd.
pub(super) struct Daemon {
    child: Child,
    ctr: PathBuf,
    dir: PathBuf,
}

impl Daemon {
    pub(super) fn ctr(&self) -> Command {
        let mut command = Command::new(&self.ctr);
        command.arg("--address").arg(self.dir.join("socket"));
        command
    }

    pub(super) fn snapshots(&self) -> PathBuf {
        self.dir
            .join("root/io.containerd.snapshotter.v1.overlayfs/snapshots")
    }

    /// Processor time and greatest memory, in KiB, of the daemon so far.
    pub(super) fn cost(&self) -> Result<(Duration, u64)> {
        let read = |name: &str| fs::read_to_string(format!("/proc/{}/{name}", self.child.id()));
        let stat = read("stat")?;
        let (_, fields) = stat.rsplit_once(") ").context("stat")?;
        // utime to cstime, in ticks of a hundredth of a second.
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(4)
            .filter_map(|word| word.parse::<u64>().ok())
            .sum();
        let status = read("status")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        Ok((Duration::from_millis(ticks * 10), peak.context("VmHWM")?))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where this machine takes Debian's packages from.
fn archive() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Created-By: Packages", "Label: Debian"])
        .output()
        .context("apt-get indextargets")?;
    let told = String::from_utf8_lossy(&output.stdout);
    let first = told
        .lines()
        .next()
        .context("apt-get knows of no archive of Debian's")?;
    Ok(first.to_owned())
}

/// Unpacks unstable's package beneath `dir`, by lists of packages of its own: the machine's are not touched.
fn fetch(dir: &Path) -> Result<()> {
    let lists = dir.join("lists");
    fs::create_dir_all(lists.join("partial"))?;
    let sources = dir.join("sources.list");
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let archive = archive()?;
    fs::write(&sources, format!("deb [signed-by={keys}] {archive} sid main\n"))?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command.current_dir(dir).arg("-q");
        for option in [
            format!("Dir::Etc::SourceList={}", sources.display()),
            "Dir::Etc::SourceParts=-".into(),
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::Cache::PkgCache={}", dir.join("cache.bin").display()),
            format!("Dir::Cache::SrcPkgCache={}", dir.join("sources.bin").display()),
            "APT::Sandbox::User=root".into(),
        ] {
            command.args(["-o", &option]);
        }
        command
    };
    super::run(apt().arg("update"))?;
    super::run(apt().args(["download", "containerd"]))?;
    let package = fs::read_dir(dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("nothing was downloaded")?;
    super::run(
        Command::new("dpkg-deb")
            .arg("-x")
            .arg(&package)
            .arg(dir.join("unpacked")),
    )
}
