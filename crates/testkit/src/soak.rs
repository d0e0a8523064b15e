//! Loops that do random things to the program for as long as one likes, and see that what must hold holds.
//!
//! The tests run each for a seeded while; `cargo xtask soak` runs them for minutes or hours with seeds of its own. A
//! failure panics with the seed that leads to it; times differ from run to run, so it may take several.

mod cuts;
mod networks;
mod races;
mod tally;

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

pub use cuts::{Cuts, cuts};
pub use networks::networks;
pub use races::races;
pub use tally::{Struck, Tally};

use crate::random::Random;
use crate::registry::Registry;
use crate::{Ended, Image, Layer, Strata};

/// What a loop did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Commands that were started, and those of them that were killed before they ended.
    pub commands: Tally,
    /// How often it was seen that all is well.
    pub checks: usize,
}

/// Commands one after the other, most of them killed (SIGKILL) at a random moment. After every few: the store works,
/// what is listed can be removed, and then nothing is left of it.
pub fn kills(program: impl Into<PathBuf>, seed: u64, how_long: Duration) -> Done {
    let mut soak = Soak::new(program.into(), seed);
    let until = Instant::now() + how_long;
    while Instant::now() < until {
        for _ in 0..1 + soak.random.below(12) {
            let words = soak.words();
            let child = soak.start(&words);
            soak.kill_or_wait(&words, child, 100);
        }
        soak.check();
    }
    soak.finish()
}

/// Several commands at a time on one store, some killed: any number of processes may work on it at once.
pub fn crowd(program: impl Into<PathBuf>, seed: u64, how_long: Duration) -> Done {
    let mut soak = Soak::new(program.into(), seed);
    let until = Instant::now() + how_long;
    while Instant::now() < until {
        let mut running = Vec::new();
        for _ in 0..2 + soak.random.below(6) {
            let words = soak.words();
            running.push((soak.start(&words), words));
        }
        for (child, words) in running {
            soak.kill_or_wait(&words, child, 25);
        }
        soak.check();
    }
    soak.finish()
}

struct Soak {
    strata: Strata,
    registry: Registry,
    random: Random,
    seed: u64,
    /// How long a command takes at most, as far as seen: moments to kill it at are drawn from this.
    longest: Duration,
    number: usize,
    done: Done,
}

impl Soak {
    fn new(program: PathBuf, seed: u64) -> Soak {
        let strata = Strata::new(program);
        for number in 0..3 {
            let layer = Layer::new()
                .file("number", 0o644, number.to_string())
                .dir("var/kept", 0o755);
            let image = Image::busybox()
                .layer(layer)
                .name(&format!("docker.io/library/image{number}:latest"));
            image.write_oci_archive(&strata.dir().join(format!("image{number}.tar")));
        }
        let root = Layer::busybox().file("imported", 0o640, vec![3; 70_000]).finish();
        fs::File::create(strata.dir().join("import.tar"))
            .and_then(|mut file| std::io::Write::write_all(&mut file, &root))
            .expect("our own directory");
        let registry = Registry::start();
        let archive = strata.dir().join("image0.tar");
        registry.fill(
            &format!("oci-archive:{}", archive.display()),
            "library/image0:latest",
            &[],
        );
        let soak = Soak {
            strata,
            registry,
            random: Random::new(seed),
            seed,
            longest: Duration::from_millis(100),
            number: 0,
            done: Done::default(),
        };
        soak.restore();
        soak
    }

    /// Something to do: mostly runs, and everything else that changes the store.
    fn words(&mut self) -> Vec<OsString> {
        self.number += 1;
        let image = format!("image{}", self.random.below(3));
        let name = format!("c{}", self.random.below(6));
        let archive = self.strata.dir().join(format!("{image}.tar")).into_os_string();
        let text = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        match self.random.below(40) {
            0..4 => text(&["run", "--rm", &image, "sh", "-c", "echo x >/x; cat /number"]),
            4..7 => text(&[
                "run",
                "--name",
                &name,
                &image,
                "sh",
                "-c",
                "echo x >/x; rm /number",
            ]),
            7 => text(&["run", "--name", &name, &image, "sleep", "1000"]),
            8 => text(&["run", "--rm", &image, "sleep", "1000"]),
            9..11 => text(&["rm", "-f", &name]),
            11 => text(&["rmi", &image]),
            12 => text(&["tag", &image, &format!("tagged{}", self.random.below(4))]),
            13 => text(&["rmi", &format!("tagged{}", self.random.below(4))]),
            14 => text(&["prune", "-a", "-f"]),
            15 => text(&["image", "prune", "-f", "--keep-bytes", "1MB"]),
            16 => text(&["prune", "blobs", "-f"]),
            17 => text(&["fsck", "--repair", "--offline"]),
            18 => text(&["df", "-v"]),
            19 => text(&["commit", "-q", &name, "committed"]),
            20 => text(&["image", "squash", "-q", &image, "squashed"]),
            21 => {
                let to = self.strata.dir().join("saved.tar").into_os_string();
                [
                    text(&["save", "-q", "-o"]),
                    vec![to],
                    text(&[&image, "committed"]),
                ]
                .concat()
            }
            22 => {
                let to = self.registry.name(&format!("library/{image}:latest"));
                text(&["push", "-q", &image, &to])
            }
            23 => {
                let from = self.registry.name(&format!("library/{image}:latest"));
                text(&["pull", "-q", &from])
            }
            25..28 => text(&[
                "run",
                "-d",
                "--name",
                &name,
                "-v",
                &format!("vol{}:/var/kept", self.random.below(3)),
                "-v",
                "/anonymous",
                "--health-cmd",
                "true",
                "--health-interval",
                "30ms",
                &image,
                "sleep",
                "1000",
            ]),
            28..30 => text(&["start", &name]),
            30 => text(&["stop", "-t", "0", &name]),
            31 => text(&["restart", "-t", "0", &name]),
            32 => text(&["kill", &name]),
            33 => text(&["exec", &name, "cat", "/number"]),
            34 => text(&["pause", &name]),
            35 => text(&["unpause", &name]),
            36 => text(&["rename", &name, &format!("c{}", self.random.below(6))]),
            37 => text(&["volume", "prune", "-a", "-f"]),
            24 => {
                let tar = self.strata.dir().join("import.tar").into_os_string();
                [text(&["import", "-q"]), vec![tar], text(&["imported"])].concat()
            }
            _ => ["load", "-q", "-i"]
                .map(OsString::from)
                .into_iter()
                .chain([archive])
                .collect(),
        }
    }

    fn start(&mut self, words: &[OsString]) -> Child {
        self.done.commands.started(words);
        let mut command = self.strata.command(words);
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts")
    }

    /// Kills it at a random moment with a chance of `percent`; a command that waits for its container is always killed.
    fn kill_or_wait(&mut self, words: &[OsString], mut child: Child, percent: u64) {
        let started = Instant::now();
        let spare = self.random.below(100) >= percent || self.random.below(4) == 0;
        let patience = if spare {
            Duration::from_secs(1)
        } else {
            self.random.duration(self.longest * 2)
        };
        while started.elapsed() < patience {
            if child.try_wait().expect("our own child").is_some() {
                self.longest = self.longest.max(started.elapsed()).min(Duration::from_secs(1));
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.done.commands.struck(words);
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// All is well: the store works, everything that is listed can be removed, and then nothing is left.
    fn check(&mut self) {
        self.done.checks += 1;
        let listed = self.ok(&["ps", "-a", "-q", "--no-trunc"]);
        for id in listed.out.lines() {
            self.ok(&["rm", "-f", "-v", id]);
        }
        self.wait_until_unused();
        self.fsck();
        self.restore();
        let seen = self.ok(&["run", "--rm", "image1", "cat", "/number"]);
        assert_eq!(seen.out, "1", "seed {}", self.seed);
        self.wait_until_unused();
        let bundles: Vec<_> = fs::read_dir(self.strata.state().join("default"))
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        assert!(
            bundles.is_empty(),
            "seed {}: bundles without a container: {bundles:?}",
            self.seed
        );
    }

    /// What was killed left nothing that is not mended.
    fn fsck(&self) {
        let ended = self.strata.end(["fsck", "--repair", "--offline"]);
        assert!(ended.code <= 1, "seed {}: {ended:#?}", self.seed);
        let ended = self.strata.end(["fsck"]);
        assert_eq!(ended.code, 0, "seed {}: {ended:#?}", self.seed);
    }

    /// Loads what the loop removed.
    fn restore(&self) {
        for number in 0..3 {
            let archive = self.strata.dir().join(format!("image{number}.tar"));
            self.ok(&["load", "-q", "-i", archive.to_str().expect("a plain name")]);
        }
    }

    /// A supervisor ends a moment after the command that it served.
    fn wait_until_unused(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let (mounts, processes) = self.strata.in_use();
            if mounts.is_empty() && processes.is_empty() {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "seed {}: left behind: {mounts:?} {processes:?}",
                self.seed
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> Ended {
        let ended = self.strata.end(words);
        assert!(
            ended.code == 0,
            "seed {}: strata {} ended with {ended:#?}",
            self.seed,
            words.join(" ")
        );
        ended
    }

    /// `fsck` finds nothing wrong with what is left, and `prune` leaves nothing of it.
    fn finish(self) -> Done {
        let ended = self.strata.end(["fsck", "--deep"]);
        assert_eq!(ended.code, 0, "seed {}: {ended:#?}", self.seed);
        self.ok(&["prune", "-a", "-f", "--volumes"]);
        for dir in ["snapshots", "content/blobs/sha256", "content/ingest", "leases"] {
            let entries = fs::read_dir(self.strata.root().join(dir))
                .into_iter()
                .flatten()
                .flatten();
            let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            assert!(left.is_empty(), "seed {}: {dir} holds {left:?}", self.seed);
        }
        self.done
    }
}
