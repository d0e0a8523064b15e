//! `cargo xtask bench start --rootless`: one start of an ordinary user's container, beside podman's of the same user and
//! beside root's.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use testkit::program::processes_naming;
use testkit::{Image, Strata};

use super::peers::{WithoutCgroup2, timed};
use super::start::{Tmpfs, check};
use super::{Release, Sample, machine, table};

/// Whom no machine has.
const USER: u32 = 60_004;

pub(super) fn main(release: &Release, n: usize) -> Result<()> {
    let place = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in("/var/tmp")?;
    fs::set_permissions(place.path(), Permissions::from_mode(0o755))?;
    let image = Image::busybox();
    let root = Strata::beneath(place.path(), &release.strata);
    let _passing = Tmpfs::mount([root.state(), place.path().join("run")].into_iter())?;
    root.load(&image);
    let user = User::new(place.path(), &release.strata, &image)?;
    println!("{}", machine());
    println!("busybox prints one word; n = {n}, interleaved");
    let mut samples = [(); 3].map(|()| Sample::default());
    // The first round fills caches, and makes the namespaces of both. It is not counted.
    for round in 0..=n {
        let token = format!("token-{round}");
        let words = ["run", "--rm", "--network", "none", "busybox", "echo", &token];
        let ran = [
            user.timed(user.strata(&words))?,
            timed(&mut root.command(words))?,
            user.timed(user.podman(&["run", "--rm", "--network", "none", &user.image, "echo", &token]))?,
        ];
        for ((sample, name), (output, took)) in samples.iter_mut().zip(NAMES).zip(ran) {
            check(name, &token, &output)?;
            if round > 0 {
                sample.push(took);
            }
        }
    }
    let [ours, roots, podman] = &samples;
    let rows = [(NAMES[0], ours), (NAMES[1], roots), (NAMES[2], podman)];
    println!("\n{}", table(&rows, &[("strata", ours), ("podman", podman)]));
    let faster = podman.median() / ours.median();
    println!("podman as the same user takes {faster:.1} times as long");
    Ok(())
}

const NAMES: [&str; 3] = [
    "strata run --rm, a user",
    "strata run --rm, root",
    "podman run --rm, a user",
];

/// An ordinary user with subordinate ids, on a machine whose tables know of nobody else.
struct User {
    dir: PathBuf,
    program: PathBuf,
    /// Where the tables are these.
    there: WithoutCgroup2,
    /// What podman calls the image.
    image: String,
}

impl User {
    fn new(place: &Path, program: &Path, image: &Image) -> Result<User> {
        let dir = place.to_path_buf();
        let tables = dir.join("etc");
        fs::create_dir(&tables)?;
        let home = dir.join("home");
        fs::create_dir(&home)?;
        for own in [&home, &dir.join("run")] {
            chown(own, Some(USER), Some(USER))?;
            fs::set_permissions(own, Permissions::from_mode(0o700))?;
        }
        let all = [
            (
                "passwd",
                format!(
                    "root:x:0:0::/root:/bin/sh\nbench:x:{USER}:{USER}::{}:/bin/sh\n",
                    home.display()
                ),
            ),
            ("group", format!("root:x:0:\nbench:x:{USER}:\n")),
            ("subuid", "bench:2000000:65536\n".to_owned()),
            ("subgid", "bench:2000000:65536\n".to_owned()),
        ];
        for (name, text) in &all {
            fs::write(tables.join(name), text)?;
        }
        let names = all.map(|(name, _)| name);
        let there = WithoutCgroup2::prepared(move || {
            for name in names {
                let place = Path::new("/etc").join(name);
                if !place.exists() {
                    fs::write(&place, "")?;
                }
                let table = sys::mount::clone_tree_at(tables.join(name), false)?;
                sys::mount::attach_at(std::os::fd::AsFd::as_fd(&table), &place)
                    .with_context(|| place.display().to_string())?;
            }
            Ok(())
        })?;
        // Where the user may execute it.
        let own = dir.join("strata");
        fs::copy(program, &own)?;
        let mut user = User {
            dir,
            program: own,
            there,
            image: String::new(),
        };
        let archive = user.dir.join("image.tar");
        image.write_docker_archive(&archive);
        fs::set_permissions(&archive, Permissions::from_mode(0o644))?;
        let archive = archive.display().to_string();
        user.done(user.strata(&["load", "--quiet", "-i", &archive]))?;
        let said = user.done(user.podman(&["load", "--quiet", "-i", &archive]))?;
        let name = said.split_whitespace().last();
        user.image = name.context("podman load names no image")?.to_owned();
        Ok(user)
    }

    fn as_the_user(&self, program: &Path) -> Command {
        let home = self.dir.join("home");
        let mut command = Command::new(program);
        command
            .uid(USER)
            .gid(USER)
            .env_clear()
            .env("HOME", &home)
            .env("XDG_RUNTIME_DIR", self.dir.join("run"))
            .env("PATH", "/usr/bin:/bin")
            .current_dir(&home);
        command
    }

    fn strata(&self, words: &[&str]) -> Command {
        let mut command = self.as_the_user(&self.program);
        command.args(words);
        command
    }

    fn podman(&self, words: &[&str]) -> Command {
        let mut command = self.as_the_user(Path::new("/usr/bin/podman"));
        command
            .args([
                "--storage-driver=overlay",
                "--runtime=crun",
                "--cgroup-manager=cgroupfs",
            ])
            .args(words);
        command
    }

    fn timed(&self, command: Command) -> Result<(std::process::Output, std::time::Duration)> {
        self.there.timed(command)
    }

    fn done(&self, command: Command) -> Result<String> {
        let shown = format!("{command:?}");
        let (output, _) = self.timed(command)?;
        if !output.status.success() {
            bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for User {
    /// Both leave a process behind that keeps the user's namespaces, and files that are nobody's here.
    fn drop(&mut self) {
        for (pid, _) in processes_naming(&self.dir) {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let owner = std::os::unix::fs::MetadataExt::uid;
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let theirs = entry.metadata().is_ok_and(|status| owner(&status) == USER);
            if let Some(pid) = pid.filter(|_| theirs).and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
