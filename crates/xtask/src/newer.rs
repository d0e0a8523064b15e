//! What is newer than Debian 12's containerd, unpacked beside what is built and installed nowhere: Debian 13's and sid's.
//!
//! They are looked for where this machine has its Debian from, with lists of packages of their own, so that nothing here
//! learns that there are such things.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use testkit::containerd::{UNPACKED, UNPACKED_1_7};

use crate::build;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Unpacks them, once.
pub(crate) fn unpack() -> Result<()> {
    of_suite("trixie", UNPACKED_1_7)?;
    of_suite("sid", UNPACKED)
}

fn of_suite(suite: &str, name: &str) -> Result<()> {
    let tests = build::target_dir().join("tmp");
    let place = tests.join(name);
    if place.join("usr/bin/containerd").exists() {
        return Ok(());
    }
    println!("unpacking beside what is built: containerd of Debian {suite}");
    fs::create_dir_all(&tests)?;
    let work = tempfile::Builder::new().prefix("apt-").tempdir_in(&tests)?;
    let at = |name: &str| work.path().join(name);
    for dir in ["lists/partial", "cache/archives/partial", "new"] {
        fs::create_dir_all(at(dir))?;
    }
    let source = format!("deb [signed-by={KEYRING}] {} {suite} main\n", mirror()?);
    fs::write(at("sources.list"), source)?;
    apt(work.path(), &["update", "-q"])?;
    apt(work.path(), &["download", "-q", "containerd"])?;
    let mut files = fs::read_dir(work.path())?.filter_map(|entry| Some(entry.ok()?.path()));
    let package = files
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download containerd brought no package")?;
    let unpacked = Command::new("dpkg")
        .arg("-x")
        .arg(package)
        .arg(at("new"))
        .status()?;
    if !unpacked.success() {
        bail!("dpkg -x failed ({unpacked})");
    }
    // Whole or not at all; another that was faster has the same.
    match fs::rename(at("new"), &place) {
        Err(_) if place.exists() => Ok(()),
        other => Ok(other?),
    }
}

/// Where this machine has its Debian from.
fn mirror() -> Result<String> {
    let told = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
            "Component: main",
        ])
        .output()
        .context("apt-get")?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let main = told.lines().find(|line| !line.contains("security"));
    Ok(main.context("apt knows no mirror of Debian")?.to_owned())
}

fn apt(work: &Path, words: &[&str]) -> Result<()> {
    let option = |name: &str, path: &str| format!("{name}={}", work.join(path).display());
    let status = Command::new("apt-get")
        .args(["-o", &option("Dir::Etc::SourceList", "sources.list")])
        .args(["-o", "Dir::Etc::SourceParts=/dev/null"])
        .args(["-o", &option("Dir::State::Lists", "lists")])
        .args(["-o", &option("Dir::Cache", "cache")])
        .args(["-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root"])
        .args(words)
        .current_dir(work)
        .stdout(Stdio::null())
        .status()
        .context("apt-get")?;
    match status.success() {
        true => Ok(()),
        false => bail!("apt-get {} failed ({status})", words.join(" ")),
    }
}
