//! A file system of a test's own.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A small file system, most often in a sparse file that is mounted by a loop device; gone with the value.
#[derive(Debug)]
pub struct Disk(TempDir);

impl Disk {
    /// Makes one of `size` bytes by the program and arguments `make`, and mounts it with `options`.
    pub fn new(kind: &str, make: &[&str], size: u64, options: &str) -> Disk {
        Disk::new_in(&std::env::temp_dir(), kind, make, size, options)
    }

    /// The same, its file in a directory of a chosen file system.
    pub fn new_in(beneath: &Path, kind: &str, make: &[&str], size: u64, options: &str) -> Disk {
        let dir = tempfile::tempdir_in(beneath).expect("a temporary directory");
        let (image, place) = (dir.path().join("image"), dir.path().join("mounted"));
        std::fs::create_dir(&place).expect("the directory is new");
        let file = std::fs::File::create(&image).expect("the directory is new");
        file.set_len(size).expect("a sparse file");
        run(Command::new(make[0]).args(&make[1..]).arg(&image));
        let options = format!("loop,{options}");
        run(Command::new("mount")
            .args(["-t", kind, "-o", &options])
            .args([&image, &place]));
        Disk(dir)
    }

    /// The disk as a power cut would leave it: what reached it in one instant, without what is only in memory. The
    /// file system that its file lies on must be one that clones files.
    pub fn cut(&self) -> Disk {
        let beneath = self.0.path().parent().expect("it lies in a directory");
        let dir = tempfile::tempdir_in(beneath).expect("a temporary directory");
        let (image, place) = (dir.path().join("image"), dir.path().join("mounted"));
        std::fs::create_dir(&place).expect("the directory is new");
        let copy = std::fs::File::create(&image).expect("the directory is new");
        let disk = std::fs::File::open(self.0.path().join("image")).expect("made by us");
        rustix::fs::ioctl_ficlone(&copy, &disk).expect("a file system that clones files");
        run(Command::new("mount").args(["-o", "loop"]).args([&image, &place]));
        Disk(dir)
    }

    /// Memory, with options as tmpfs takes them, such as `size=4m`. Every user can reach it.
    pub fn tmpfs(options: &str) -> Disk {
        let dir = tempfile::tempdir().expect("a temporary directory");
        crate::files::chmod(dir.path(), 0o755).expect("our own directory");
        let place = dir.path().join("mounted");
        std::fs::create_dir(&place).expect("the directory is new");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "strata-test"])
            .arg(&place));
        Disk(dir)
    }

    /// An xfs, whose files can share blocks.
    pub fn xfs() -> Disk {
        Disk::new("xfs", &["mkfs.xfs", "-q"], 400 << 20, "rw")
    }

    /// An xfs that counts projects and holds them to their limits.
    pub fn xfs_with_project_quotas() -> Disk {
        // Less than 300 MiB are refused.
        Disk::new("xfs", &["mkfs.xfs", "-q"], 400 << 20, "prjquota")
    }

    /// Where it is mounted.
    pub fn path(&self) -> std::path::PathBuf {
        Path::join(self.0.path(), "mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A program that another test starts holds our descriptors for a moment, from fork to exec.
        let deadline = Instant::now() + Duration::from_secs(5);
        let unmount = || {
            let output = Command::new("umount").arg(self.path()).output();
            output.expect("umount").status.success()
        };
        let mut unmounted = unmount();
        while !unmounted && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            unmounted = unmount();
        }
        if !std::thread::panicking() {
            assert!(unmounted, "a disk is still in use");
        }
    }
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}
