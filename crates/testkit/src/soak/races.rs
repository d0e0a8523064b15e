//! Pull, load, rmi, prune and run beside each other on the same images: none is told that something is not there which it
//! had been promised, and nothing stays.

use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::{Done, Tally};
use crate::random::Random;
use crate::registry::Registry;
use crate::{Ended, Image, Layer, Strata};

/// Several processes in loops of their own, for so long. One image stays and others that share its layers come and go.
pub fn races(program: impl Into<PathBuf>, seed: u64, how_long: Duration) -> Done {
    let strata = Strata::new(program);
    let registry = Registry::start();
    let image = |name: &str, extra: &str| {
        let common = Layer::new().file("common", 0o644, vec![5; 40_000]);
        let own = Layer::new().file("own", 0o644, extra);
        Image::busybox()
            .layer(common)
            .layer(own)
            .name(&format!("docker.io/library/{name}:latest"))
    };
    for (name, extra) in [
        ("steady", "steady"),
        ("fleeting", "fleeting"),
        ("pulled", "pulled"),
    ] {
        let archive = strata.dir().join(format!("{name}.tar"));
        image(name, extra).write_oci_archive(&archive);
        if name == "pulled" {
            registry.fill(
                &format!("oci-archive:{}", archive.display()),
                "library/pulled:latest",
                &[],
            );
        }
    }
    let archive = |name: &str| {
        strata
            .dir()
            .join(format!("{name}.tar"))
            .to_str()
            .expect("a plain name")
            .to_owned()
    };
    let (steady, fleeting) = (archive("steady"), archive("fleeting"));
    let pulled = registry.name("library/pulled:latest");
    strata.ok(["load", "-q", "-i", &steady]);
    // A container keeps its image from being pruned.
    strata.ok(["run", "--name", "anchor", "steady", "true"]);

    let until = Instant::now() + how_long;
    let commands = Mutex::new(Tally::default());
    let run = |words: &[&str], may: &[&str]| -> Ended {
        commands.lock().expect("nobody panics with it").started(words);
        let ended = strata.end(words);
        let allowed = ended.code == 0 || may.iter().any(|words| ended.err.contains(words));
        assert!(
            allowed,
            "seed {seed}: strata {} ended with {ended:#?}",
            words.join(" ")
        );
        ended
    };
    let loops: [&(dyn Fn(&mut Random) + Sync); 6] = [
        &|_| {
            let ended = run(&["run", "--rm", "steady", "cat", "/own"], &[]);
            assert_eq!(ended.out, "steady", "seed {seed}");
        },
        &|_| drop(run(&["load", "-q", "-i", &steady], &[])),
        &|random| {
            run(&["load", "-q", "-i", &fleeting], &[]);
            thread::sleep(random.duration(Duration::from_millis(20)));
            run(&["rmi", "fleeting"], &["there is no image"]);
        },
        &|random| {
            run(&["pull", "-q", &pulled], &[]);
            thread::sleep(random.duration(Duration::from_millis(20)));
        },
        &|random| {
            run(&["image", "prune", "-a", "-f"], &[]);
            thread::sleep(random.duration(Duration::from_millis(200)));
        },
        // It is pulled when it is missing, and whoever prunes meanwhile does not take it away again.
        &|_| {
            let ended = run(&["run", "--rm", &pulled, "cat", "/own"], &[]);
            assert_eq!(ended.out, "pulled", "seed {seed}");
        },
    ];
    thread::scope(|scope| {
        for (number, one) in loops.iter().enumerate() {
            scope.spawn(move || {
                let mut random = Random::new(seed.wrapping_add(number as u64));
                while Instant::now() < until {
                    one(&mut random);
                }
            });
        }
    });
    let sound = strata.end(["fsck", "--deep"]);
    assert_eq!(sound.code, 0, "seed {seed}: {sound:#?}");
    strata.ok(["prune", "-a", "-f"]);
    for dir in ["snapshots", "content/blobs/sha256", "content/ingest", "leases"] {
        let entries = std::fs::read_dir(strata.root().join(dir))
            .into_iter()
            .flatten()
            .flatten();
        let left: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "seed {seed}: {dir} holds {left:?}");
    }
    Done {
        commands: commands.into_inner().expect("nobody panics with it"),
        checks: 1,
    }
}
