//! The peers, each made ready as its own manual says, on the same image and the same file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use testkit::{Image, Strata};

/// podman with a store of its own and the busybox image in it.
pub(crate) struct Podman {
    store: Vec<String>,
    /// What podman calls the image.
    image: String,
    /// Flags of `run` without which it does not run on this machine.
    flags: Vec<&'static str>,
}

/// What podman may need: nothing on an ordinary machine; no new limits where CAP_SYS_RESOURCE is missing.
const PODMAN_FLAGS: [&[&str]; 2] = [&[], &["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]];

impl Podman {
    pub(crate) fn prepare(dir: &Path, image: &Image, hidden: &WithoutCgroup2) -> Result<Podman> {
        let store = vec![
            format!("--root={}", dir.join("podman").display()),
            format!("--runroot={}", dir.join("podman-run").display()),
            "--storage-driver=overlay".into(),
            "--runtime=crun".into(),
            "--cgroup-manager=cgroupfs".into(),
        ];
        let archive = dir.join("podman.tar");
        image.write_docker_archive(&archive);
        let mut load = Command::new("podman");
        load.args(&store).arg("load").arg("-i").arg(&archive);
        let (loaded, _) = hidden.timed(load)?;
        if !loaded.status.success() {
            bail!("podman load: {}", String::from_utf8_lossy(&loaded.stderr));
        }
        let words = String::from_utf8_lossy(&loaded.stdout).into_owned();
        let image = words
            .split_whitespace()
            .last()
            .context("podman load names no image")?;
        let mut podman = Podman {
            store,
            image: image.to_owned(),
            flags: Vec::new(),
        };
        let mut last = String::new();
        for flags in PODMAN_FLAGS {
            podman.flags = flags.to_vec();
            let (output, _) = hidden.timed(podman.run("ready"))?;
            if output.stdout == b"ready\n" {
                return Ok(podman);
            }
            last = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        bail!("podman does not run here: {last}")
    }

    pub(crate) fn run(&self, token: &str) -> Command {
        let mut command = Command::new("podman");
        command
            .args(&self.store)
            .args(["run", "--rm", "--network", "none"])
            .args(&self.flags);
        command.args([self.image.as_str(), "echo", token]);
        command
    }

    /// A command on its store.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.args(&self.store).args(words);
        command
    }

    /// What comes before a container's command: the flags without which it does not run here, and the image.
    pub(crate) fn start_words(&self) -> Vec<&str> {
        self.flags.iter().copied().chain([self.image.as_str()]).collect()
    }

    pub(crate) fn flags(&self) -> String {
        self.flags.join(" ")
    }
}

/// A bundle for crun and runc: strata's own `config.json`, its seccomp filter with it, over a plain directory.
pub(crate) struct Bundle {
    dir: PathBuf,
    config: Value,
}

impl Bundle {
    /// Starts a container, keeps a copy of its bundle, and takes it away again.
    pub(crate) fn prepare(dir: &Path, strata: &Strata, layer: &[u8]) -> Result<Bundle> {
        let bundle = dir.join("bundle");
        fs::create_dir(&bundle)?;
        let unpacked = bundle.join("rootfs");
        fs::create_dir(&unpacked)?;
        let tar = dir.join("layer.tar");
        fs::write(&tar, layer)?;
        let status = Command::new("tar")
            .arg("-xpf")
            .arg(&tar)
            .arg("-C")
            .arg(&unpacked)
            .status()
            .context("tar")?;
        if !status.success() {
            bail!("tar: {status}");
        }

        let mut running = strata
            .command([
                "run",
                "--network",
                "none",
                "--name",
                "model",
                "busybox",
                "sleep",
                "600",
            ])
            .spawn()?;
        let model = model_bundle(&strata.state())?;
        let text = fs::read_to_string(model.join("config.json"))?;
        for entry in fs::read_dir(&model)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), bundle.join(entry.file_name()))?;
            }
        }
        let removed = strata.end(["rm", "-f", "model"]);
        running.wait()?;
        if removed.code != 0 {
            bail!("strata rm -f: {}", removed.err);
        }

        let text = text.replace(&model.display().to_string(), &bundle.display().to_string());
        let mut config: Value = serde_json::from_str(&text).context("config.json")?;
        config["process"]["terminal"] = json!(false);
        config["root"]["path"] = json!("rootfs");
        if let Some(linux) = config["linux"].as_object_mut() {
            linux.remove("cgroupsPath");
        }
        if let Some(whole) = config.as_object_mut() {
            whole.remove("hooks");
        }
        Ok(Bundle { dir: bundle, config })
    }

    /// `RUNTIME run` of the bundle, to print a token.
    pub(crate) fn run(&self, runtime: &str, token: &str) -> Result<Command> {
        self.write(&["echo", token])?;
        let mut command = Command::new(runtime);
        command
            .arg("--root")
            .arg(self.dir.with_file_name("runtimes").join(runtime))
            .args(["run", "--bundle"])
            .arg(&self.dir)
            .arg(token);
        Ok(command)
    }

    /// Writes the configuration with these words as the program; where the bundle is.
    pub(crate) fn write(&self, words: &[&str]) -> Result<PathBuf> {
        let mut config = self.config.clone();
        config["process"]["args"] = json!(words);
        fs::write(self.dir.join("config.json"), config.to_string())?;
        Ok(self.dir.clone())
    }

    /// Takes the seccomp filter away.
    pub(crate) fn without_filter(&mut self) {
        if let Some(linux) = self.config["linux"].as_object_mut() {
            linux.remove("seccomp");
        }
    }

    /// Whether the bundle has a seccomp filter.
    pub(crate) fn filtered(&self) -> bool {
        self.config["linux"]["seccomp"].is_object()
    }
}

/// The bundle of the one container there is, once it is complete.
fn model_bundle(state: &Path) -> Result<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        for namespace in fs::read_dir(state).into_iter().flatten().flatten() {
            for bundle in fs::read_dir(namespace.path()).into_iter().flatten().flatten() {
                if bundle.path().join("state.json").exists() {
                    return Ok(bundle.path());
                }
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("the container that was to be the model never came up")
}

/// Runs a command where the cgroup2 mount of a hybrid machine is not to be seen: crun 1.8, and podman with it,
/// refuses to run beside it.
/// The namespace is the calling thread's, so that no other program stands between and costs time.
pub(crate) struct WithoutCgroup2 {
    orders: std::sync::mpsc::Sender<Command>,
    outcomes: std::sync::mpsc::Receiver<std::io::Result<(Output, Duration)>>,
}

impl WithoutCgroup2 {
    pub(crate) fn new() -> Result<WithoutCgroup2> {
        WithoutCgroup2::prepared(|| Ok(()))
    }

    /// The same, where `prepare` has changed more of what is mounted.
    pub(crate) fn prepared(prepare: impl FnOnce() -> Result<()> + Send + 'static) -> Result<WithoutCgroup2> {
        let (orders, taken) = std::sync::mpsc::channel::<Command>();
        let (given, outcomes) = std::sync::mpsc::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let _ = ready.send(hide_cgroup2().and_then(|()| prepare()));
            for mut command in taken {
                if given.send(timed(&mut command)).is_err() {
                    break;
                }
            }
        });
        is_ready.recv()??;
        Ok(WithoutCgroup2 { orders, outcomes })
    }

    pub(crate) fn timed(&self, command: Command) -> Result<(Output, Duration)> {
        self.orders
            .send(command)
            .map_err(|_| anyhow::anyhow!("the thread has ended"))?;
        Ok(self.outcomes.recv()??)
    }
}

fn hide_cgroup2() -> Result<()> {
    use rustix::mount::{MountPropagationFlags, UnmountFlags};
    sys::process::unshare(sys::process::namespaces::MOUNT).context("unshare")?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    if hybrid.exists() {
        rustix::mount::unmount(hybrid, UnmountFlags::DETACH).context("hiding cgroup2")?;
    }
    Ok(())
}

/// Starts a command and waits for it and its output.
pub(crate) fn timed(command: &mut Command) -> std::io::Result<(Output, Duration)> {
    let started = Instant::now();
    let output = command.stdin(Stdio::null()).output()?;
    Ok((output, started.elapsed()))
}
