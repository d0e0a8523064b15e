//! Containers in networks, and whoever starts, restarts and removes them killed at random.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::Done;
use crate::random::Random;
use crate::{Image, Strata, net};

/// How long what was killed may take to be cleared up by the commands that come after it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Commands on containers with networks and published ports, one after the other, each killed (SIGKILL) at a random moment
/// where it has not ended. Now and then: all is removed, and no interface, rule, address, namespace and row is left, and the
/// same port and network can be had again.
pub fn networks(program: impl Into<PathBuf>, seed: u64, how_long: Duration) -> Done {
    let program = program.into();
    // A thread, whose network nobody else has.
    let soak = std::thread::spawn(move || {
        net::apart();
        let strata = Strata::new(program);
        strata.load(&Image::busybox());
        let mut soak = Soak {
            strata,
            random: Random::new(seed),
            seed,
            done: Done::default(),
        };
        soak.strata.ok(["network", "create", "n"]);
        let until = Instant::now() + how_long;
        while Instant::now() < until {
            let some = Instant::now() + Duration::from_secs(10);
            while Instant::now() < until.min(some) {
                soak.step();
            }
            soak.check();
        }
        soak.finish()
    });
    match soak.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

struct Soak {
    strata: Strata,
    random: Random,
    seed: u64,
    done: Done,
}

impl Soak {
    fn step(&mut self) {
        let line = match self.random.below(8) {
            0 => "run --rm --network n -p 8080:80 busybox true",
            1 => "run -d --rm --network bridge busybox sleep 0.2",
            2 => "run -d --network n --network bridge -p 80 busybox sleep 0.4",
            3 => "run -d --name same --network n -p 8080:80 busybox sleep 100",
            4 => "restart -t 0 same",
            5 => "network connect bridge same",
            6 => "stop -t 0 same",
            _ => "rm -f same",
        };
        let words: Vec<&str> = line.split(' ').collect();
        let mut child = self
            .strata
            .command(&words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        std::thread::sleep(Duration::from_millis(self.random.below(250)));
        self.done.commands.started(&words);
        if matches!(child.try_wait(), Ok(None)) {
            self.done.commands.struck(&words);
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    fn check(&mut self) {
        // What was started and not killed ends by itself.
        std::thread::sleep(Duration::from_millis(500));
        self.strata.ok(["rm", "-f", "-a"]);
        self.nothing_left();
        // Everything works, on the same port and addresses.
        let words = "run --rm --network n -p 8080:80 busybox true";
        self.strata.ok(words.split(' '));
        self.done.checks += 1;
    }

    /// Who was killed may have left one who is at it still.
    fn nothing_left(&self) {
        let begun = Instant::now();
        loop {
            let rows = self.strata.ok(["ps", "-a", "-q"]);
            let left = net::left_behind(&self.strata.state());
            if left.is_empty() && rows.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "seed {}: {left:#?} {rows}", self.seed);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn finish(self) -> Done {
        self.strata.ok(["network", "rm", "n"]);
        // Snapshots of those that were killed are collected in time; of networks there is nothing to find.
        let told = self.strata.end(["fsck"]);
        let clean = !told.out.contains("network") && told.err.is_empty();
        assert!(clean, "seed {}: {told:?}", self.seed);
        self.nothing_left();
        self.done
    }
}
