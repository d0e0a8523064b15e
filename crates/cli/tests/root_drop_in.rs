//! The drop-in for `fuse-overlayfs`: each of its options does what it says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// Directories of an overlay, served at `mnt`.
struct Place(tempfile::TempDir);

impl Place {
    #[track_caller]
    fn mounted(options: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        for name in ["low", "low/d", "low/d/e", "up", "work", "mnt"] {
            fs::create_dir(place.at(name)).unwrap();
        }
        fs::write(place.at("low/f"), "low").unwrap();
        std::os::unix::fs::chown(place.at("low/f"), Some(100_005), Some(200_006)).unwrap();
        let options = format!("lowerdir=low,upperdir=up,workdir=work,{options}");
        let status = Command::new(env!("CARGO_BIN_EXE_strata"))
            .args(["fuse-overlayfs", "-o", &options, "mnt"])
            .current_dir(place.0.path())
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "mounting needs root");
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn owner(&self, name: &str) -> (u32, u32) {
        let stat = fs::metadata(self.at(name)).unwrap();
        (stat.uid(), stat.gid())
    }

    /// Names of the server's threads that answer.
    fn workers(&self) -> usize {
        let mut buffer = [0u8; 64];
        let length = rustix::fs::getxattr(self.at("mnt"), "security.strata.server", &mut buffer[..]).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let tasks = format!("/proc/{}/task", text.split(' ').next().unwrap());
        let name = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap();
        let tasks = fs::read_dir(tasks).unwrap().map(Result::unwrap);
        tasks.filter(|task| name(task).starts_with("fuse-")).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = mount::fuse::stop(
            &self.at("mnt").canonicalize().unwrap(),
            mount::fuse::Unmount::Detach,
        );
    }
}

#[test]
fn owners() {
    let place = Place::mounted("uidmapping=100000:0:10:0:1000:1,gidmapping=200000:0:10:0:1000:1");
    assert_eq!(place.owner("mnt/f"), (5, 6));
    std::os::unix::fs::chown(place.at("mnt/f"), Some(7), Some(8)).unwrap();
    assert_eq!(
        (place.owner("mnt/f"), place.owner("up/f")),
        ((7, 8), (100_007, 200_008))
    );
    for (options, owner) in [
        ("squash_to_root", (0, 0)),
        ("squash_to_uid=3", (3, 200_006)),
        ("squash_to_uid=3,squash_to_gid=4", (3, 4)),
    ] {
        assert_eq!(Place::mounted(options).owner("mnt/f"), owner, "{options}");
    }
}

#[test]
fn links_of_directories() {
    let links = |options| fs::metadata(Place::mounted(options).at("mnt/d")).unwrap().nlink();
    assert_eq!((links("static_nlink"), links("rw")), (1, 3));
}

#[test]
fn attributes_and_access_lists() {
    /// `u::rw-,g::r--,o::r--`, and `rw-` for user 7.
    const ACL: [u8; 44] = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 7, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
        16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
    ];
    let set = |options, name, value: &[u8]| {
        let place = Place::mounted(options);
        rustix::fs::setxattr(place.at("mnt/f"), name, value, XattrFlags::empty())
    };
    assert_eq!(set("noxattrs=1", "user.x", b"1"), Err(Errno::OPNOTSUPP));
    assert_eq!(set("noxattrs=0", "user.x", b"1"), Ok(()));
    assert_eq!(set("rw", "system.posix_acl_access", &ACL), Ok(()));
}

#[test]
fn threads_and_durability() {
    assert_eq!(Place::mounted("threaded=0").workers(), 1);
    assert!(Place::mounted("threaded=1").workers() > 1);
    let marked = |options| Place::mounted(options).at("work/work/incompat/volatile").exists();
    assert!(marked("volatile") && marked("fsync=0") && !marked("fsync=1"));
}
