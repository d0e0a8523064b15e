//! Those who are compared, and what each mounts.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::UnmountFlags;

use super::switch;
use super::tree::{Tree, run};
use crate::build;

/// Who merges the layers.
#[derive(Debug, Clone)]
pub(super) struct Contestant {
    pub(super) name: String,
    /// Its server with the words before the options; the kernel has none.
    server: Option<Vec<PathBuf>>,
    /// It is mounted with the kernel's switch for FUSE over io_uring on.
    over_io_uring: bool,
}

pub(super) const KERNEL: &str = "kernel";
pub(super) const STRATA: &str = "strata";
const PEER: &str = "fuse-overlayfs";
const PEER_VERSION: &str = "2.0.0";

impl Contestant {
    /// All that can be had here, the kernel first and strata last, over io_uring if that is wanted too; and a word about
    /// each that cannot.
    pub(super) fn all(strata: &Path, io_uring: bool) -> (Vec<Contestant>, Vec<String>) {
        let mut all = vec![Contestant {
            name: KERNEL.into(),
            server: None,
            over_io_uring: false,
        }];
        let mut absent = Vec::new();
        let peers = [
            ("from Debian", Ok(PathBuf::from(PEER))),
            ("2.0 from crates.io", install_peer()),
        ];
        for (origin, program) in peers {
            let version = program.and_then(|program| Ok((version(&program)?, program)));
            match version {
                Ok((version, program)) => all.push(Contestant {
                    name: format!("f-o {version}"),
                    server: Some(vec![program]),
                    over_io_uring: false,
                }),
                Err(error) => absent.push(format!("{PEER} {origin} is NOT compared: {error:#}")),
            }
        }
        let words = [strata, "mount".as_ref(), "--driver".as_ref(), "fuse".as_ref()];
        let ours = Contestant {
            name: STRATA.into(),
            server: Some(words.map(PathBuf::from).to_vec()),
            over_io_uring: false,
        };
        let over_io_uring = io_uring.then(|| Contestant {
            name: "s-uring".into(),
            over_io_uring: true,
            ..ours.clone()
        });
        all.push(ours);
        all.extend(over_io_uring);
        (all, absent)
    }

    /// Mounts the layers at `place/mnt`, with a fresh writable directory unless `read_only`.
    pub(super) fn mount(&self, tree: &Tree, place: &Path, read_only: bool) -> Result<Mounted> {
        let at = place.join("mnt");
        fs::create_dir_all(&at)?;
        let lower: Vec<_> = tree.layers.iter().map(|dir| dir.display().to_string()).collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        if !read_only {
            let [upper, work] = ["upper", "work"].map(|name| place.join(name));
            fs::create_dir(&upper)?;
            fs::create_dir(&work)?;
            options += &format!(",upperdir={},workdir={}", upper.display(), work.display());
        }
        let mut mounted = Mounted {
            place: place.to_owned(),
            at,
            server: None,
        };
        let Some(server) = &self.server else {
            let mut mount = Command::new("mount");
            mount.args(["-t", "overlay", "overlay", "-o", &options]);
            run(mount.arg(&mounted.at))?;
            return Ok(mounted);
        };
        let log = place.join("log");
        let words = File::create(&log)?;
        let mut command = Command::new(&server[0]);
        command
            .args(&server[1..])
            .args(["-f", "-o", &options])
            .arg(&mounted.at);
        command
            .stdin(Stdio::null())
            .stdout(words.try_clone()?)
            .stderr(words);
        let switch = self.over_io_uring.then(switch::on).transpose()?;
        let child = command.spawn().with_context(|| self.name.clone())?;
        let server = mounted.server.insert(child);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_mounted(&mounted.at) {
            if server.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("{} does not mount: {}", self.name, fs::read_to_string(&log)?);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Answered only when kernel and server have agreed on how they speak.
        fs::metadata(&mounted.at)?;
        drop(switch);
        Ok(mounted)
    }
}

/// The peer's newest version, built once into the target directory.
fn install_peer() -> Result<PathBuf> {
    let root = build::target_dir().join("peers");
    let program = root.join("bin").join(PEER);
    if !program.exists() {
        println!("installing {PEER} {PEER_VERSION} from crates.io");
        run(build::cargo()
            .args(["install", "--quiet", "--locked", "--root"])
            .arg(&root)
            .arg(format!("{PEER}@{PEER_VERSION}")))?;
    }
    Ok(program)
}

/// `1.10` of `fuse-overlayfs: version 1.10`.
fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| program.display().to_string())?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let numbers = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let line = text.lines().find(|line| line.contains(PEER));
    let word = line.and_then(|line| line.split_whitespace().find(numbers));
    Ok(word
        .with_context(|| format!("it tells no version: {text}"))?
        .to_owned())
}

fn is_mounted(at: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let at = at.display().to_string();
    table.lines().any(|line| line.split(' ').nth(4) == Some(&at))
}

/// A mount with its server. Dropping it unmounts, ends the server and removes what was written.
pub(super) struct Mounted {
    place: PathBuf,
    pub(super) at: PathBuf,
    server: Option<Child>,
}

impl Mounted {
    /// The server's process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Somebody may still look at it: it is gone from here either way.
        if rustix::mount::unmount(&self.at, UnmountFlags::empty()).is_err() {
            let _ = rustix::mount::unmount(&self.at, UnmountFlags::DETACH);
        }
        if let Some(server) = &mut self.server {
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(server.try_wait(), Ok(None)) {
                if Instant::now() > deadline {
                    let _ = server.kill();
                    let _ = server.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        for name in ["upper", "work"] {
            let _ = fs::remove_dir_all(self.place.join(name));
        }
    }
}

/// What a server holds, in bytes: all that is resident, and what of it is its own memory rather than its program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    pub(super) resident: u64,
    pub(super) own: u64,
}

impl Memory {
    pub(super) fn of(pid: u32) -> Result<Memory> {
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.map(|kib| kib << 10).with_context(|| name.to_owned())
        };
        Ok(Memory {
            resident: field("VmRSS:")?,
            own: field("RssAnon:")?,
        })
    }
}

/// What a server does, as seen from outside: its threads, its rings, and whether written bytes pass it by.
pub(super) fn switches(pid: u32, at: &Path) -> Result<String> {
    let names = |dir: &str| -> Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/{dir}"))?.count()) };
    let mut rings = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let link = fs::read_link(entry?.path()).unwrap_or_default();
        rings += usize::from(link.to_string_lossy().contains("io_uring"));
    }
    let written = || -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
        Ok(line.context("wchar")?.trim().parse()?)
    };
    let before = written()?;
    let file = at.join("switches");
    fs::write(&file, vec![1; 4 << 20])?;
    fs::remove_file(&file)?;
    let passed = written()? - before < 4 << 20;
    Ok(format!(
        "{} threads, io_uring {}, passthrough of writes {}",
        names("task")?,
        if rings > 0 {
            format!("in use ({rings} rings)")
        } else {
            "not in use".into()
        },
        if passed { "in force" } else { "NOT in force" },
    ))
}
