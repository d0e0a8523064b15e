//! Random lower directories, and the two drivers on them.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mount::{Mount, MountError};
use overlay::live::{Layers, OpenError, Options, Overlay};
use overlay::{Format, Opaque, whiteout};
use rustix::fs::Mode;
use sys::Dir;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    pub(crate) fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.below(among.len() as u64) as usize]
    }
}

pub(crate) const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

pub(crate) fn fill(random: &mut Random, dir: &Dir, depth: u32, lowest: bool, format: Format) {
    for name in NAMES {
        match random.below(8) {
            0..=2 => {
                let file = dir.create_new(name, Mode::from_raw_mode(0o644)).unwrap();
                file.write_all_at(name.repeat(random.below(40) as usize).as_bytes(), 0)
                    .unwrap();
                if random.below(4) == 0 {
                    let _ = dir.link(dir, name, format!("{name}x"));
                }
            }
            3..=5 if depth > 0 => {
                dir.mkdir(name, Mode::from_raw_mode(0o755)).unwrap();
                let child = dir.open_dir(name).unwrap();
                if !lowest && random.below(5) == 0 {
                    Opaque::Yes.write(child.as_fd(), format.prefix).unwrap();
                    fill(random, &child, depth - 1, true, format);
                } else {
                    fill(random, &child, depth - 1, lowest, format);
                }
            }
            6 if !lowest => whiteout::make(dir, OsStr::new(name), format).unwrap(),
            7 => dir.symlink("nowhere", name).unwrap(),
            _ => {}
        }
    }
}

/// Mounts with the kernel's driver. It calls directories busy until the last user of their mount before is gone, and
/// they count as served while somebody holds our server's lock: a program that another test of this process starts may
/// be that one, between its fork and its exec.
pub(crate) fn attach(value: &Mount, at: &Path) {
    for _ in 0..1000 {
        match mount::attach(value, at) {
            Err(error) if matches!(error, MountError::InUse(_)) || error.to_string().contains("busy") => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            other => return other.expect("mounting an overlay needs root"),
        }
    }
    panic!("{value:?} stays busy")
}

/// A live overlay of lower directories and of `upper` and `work` in a scratch directory.
pub(crate) fn overlay_at(scratch: &Path, lowers: &[PathBuf], options: Options) -> Overlay {
    for _ in 0..1000 {
        let layers = Layers {
            lower: lowers.iter().map(|dir| Dir::open_ambient(dir).unwrap()).collect(),
            upper: Some(Dir::open_ambient(scratch.join("upper")).unwrap()),
            work: Some(Dir::open_ambient(scratch.join("work")).unwrap()),
        };
        match Overlay::new(layers, options.clone()) {
            // A program that another test of this process starts holds the lock between its fork and its exec.
            Err(OpenError::InUse(_)) => std::thread::sleep(std::time::Duration::from_millis(1)),
            other => return other.unwrap(),
        }
    }
    panic!("the directories stay locked")
}
