//! [`overlay::live`] against a plain directory: the same operations on both must give the same errors, and leave the
//! same tree; and the layers that it leaves, mounted by the kernel, must show that tree too. Needs root.

mod ahead;
mod in_use;
mod layers;
mod long_calls;
mod opened_again;
mod pair;
mod seen;
mod threads;
mod while_copied;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mount::Mount;
use overlay::Format;
use overlay::live::{Options, ROOT};
use sys::Dir;

use layers::{Random, attach, fill, overlay_at};
use pair::{Pair, step};
use seen::{compare, difference, seen, shown, tree};

fn run(seed: u64, steps: u64, format: Format) {
    let options = || Options {
        prefix: format.prefix,
        whiteouts: format.whiteouts,
        index: true,
        ..Options::default()
    };
    let trusted = format == Format::TRUSTED;
    let temp = tempfile::tempdir().unwrap();
    let random = &mut Random(seed);
    let at = |name: &str| temp.path().join(name);
    let count = 1 + random.below(3);
    let mut lowers = Vec::new();
    for number in 0..count {
        let dir = at(&format!("lower{number}"));
        fs::create_dir(&dir).unwrap();
        fill(
            random,
            &Dir::open_ambient(&dir).unwrap(),
            3,
            number + 1 == count,
            format,
        );
        lowers.push(dir);
    }
    for name in ["upper", "work", "merged", "plain"] {
        fs::create_dir(at(name)).unwrap();
    }
    let kernel = |writable: bool, look: &mut dyn FnMut(&Path)| {
        let lower: Vec<&Path> = lowers.iter().map(PathBuf::as_path).collect();
        let (upper, work, merged) = (at("upper"), at("work"), at("merged"));
        let value = match writable {
            true => Mount::overlay(&lower, Some((&upper, &work)), &["redirect_dir=on", "index=on"]),
            false => {
                fs::create_dir(at("empty")).unwrap();
                let empty = at("empty");
                let mut all = lower.clone();
                all.push(&empty);
                Mount::overlay(&all, None, if trusted { &[] } else { &["userxattr"] })
            }
        };
        attach(&value, &merged);
        look(&merged);
        mount::detach(&merged).unwrap();
    };
    kernel(false, &mut |merged| {
        // It complains of whiteouts in directories of one layer alone, which are listed and not found.
        let copy = Command::new("cp")
            .arg("-a")
            .arg(merged.join("."))
            .arg(at("plain"))
            .output()
            .unwrap();
        let complaints = String::from_utf8_lossy(&copy.stderr).into_owned();
        assert!(
            complaints.lines().all(|line| line.contains("No such file")),
            "{complaints}"
        );
    });
    let before: Vec<_> = lowers.iter().map(|dir| tree(dir)).collect();
    let open = || overlay_at(temp.path(), &lowers, options());
    let plain = at("plain");
    let mut log = Vec::new();
    for round in 0..3 {
        let overlay = open();
        let pair = Pair {
            overlay: &overlay,
            plain: &plain,
        };
        for number in 0..steps {
            ahead::somewhere(random, &overlay);
            let result =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(random, &pair, number)));
            match result {
                Ok(line) if line.ends_with("Ok(())") => log.push(line),
                Ok(_) => {}
                Err(cause) => {
                    let cause = cause.downcast_ref::<String>().map_or("a panic", String::as_str);
                    panic!(
                        "seed {seed}, round {round}: {cause}
after:
{}",
                        log.join(
                            "
"
                        )
                    );
                }
            }
            if number % 25 == 24 {
                compare(seed, &log, &overlay, &plain);
            }
        }
        compare(seed, &log, &overlay, &plain);
        drop(overlay);
        // Another server finds the same, and so does the kernel.
        let again = open();
        compare(seed, &log, &again, &plain);
        let mut ours = BTreeMap::new();
        shown(&again, ROOT, Path::new(""), &mut ours);
        drop(again);
        // The kernel follows no redirects under the user prefix.
        if trusted {
            kernel(true, &mut |merged| {
                let mut theirs = BTreeMap::new();
                seen(merged, merged, &mut theirs);
                difference(seed, &log, "ours", &ours, "the kernel's", &theirs);
            });
        }
    }
    let after: Vec<_> = lowers.iter().map(|dir| tree(dir)).collect();
    assert_eq!(before, after, "a lower directory changed");
}

/// The seeds to run: `count` of them, or those that `STRATA_SEEDS=FIRST+COUNT` says.
pub(crate) fn seeds(count: u64) -> std::ops::Range<u64> {
    let seeds = std::env::var("STRATA_SEEDS").ok();
    let (first, count) = match seeds.as_deref().and_then(|seeds| seeds.split_once('+')) {
        Some((first, count)) => (first.parse().unwrap(), count.parse().unwrap()),
        None => (1, count),
    };
    first..first + count
}
#[test]
fn random_changes_are_those_of_a_plain_directory_and_the_kernel_reads_them() {
    for seed in seeds(5) {
        run(seed, 120, Format::TRUSTED);
        run(seed, 120, Format::USER);
    }
}
