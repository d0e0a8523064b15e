//! The drop-in for `fuse-overlayfs`: each of its options does what it says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;
use testkit::files as f;

/// The attributes, as docs/format/overlay.md has them.
mod stat_override {
    pub(crate) const CONTAINERS: &str = "user.containers.override_stat";
    pub(crate) const PRIVILEGED: &str = "security.fuseoverlayfs.override_stat";
}

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
        place.mount(options);
        place
    }

    #[track_caller]
    fn mount(&self, options: &str) {
        let options = format!("lowerdir=low,upperdir=up,workdir=work,{options}");
        let status = Command::new(env!("CARGO_BIN_EXE_strata"))
            .args(["fuse-overlayfs", "-o", &options, "mnt"])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "mounting needs root");
    }

    fn unmount(&self) {
        let target = self.at("mnt").canonicalize().unwrap();
        mount::fuse::stop(&target, mount::fuse::Unmount::Detach).unwrap();
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
    assert_eq!(
        set("noacl", "system.posix_acl_access", &ACL),
        Err(Errno::OPNOTSUPP)
    );
}

#[test]
fn threads_and_durability() {
    assert_eq!(Place::mounted("threaded=0").workers(), 1);
    let several = Place::mounted("threaded=1");
    // A thread gives itself its name, and may not have come to that.
    let until = Instant::now() + Duration::from_secs(5);
    while several.workers() < 2 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(several.workers() > 1);
    for options in [
        "timeout=0",
        "timeout=0.5",
        "xino=auto",
        "allow_other",
        "default_permissions",
    ] {
        let place = Place::mounted(options);
        fs::write(place.at("mnt/f"), "changed").unwrap();
        assert_eq!(
            fs::read_to_string(place.at("mnt/f")).unwrap(),
            "changed",
            "{options}"
        );
    }
    let marked = |options| Place::mounted(options).at("work/work/incompat/volatile").exists();
    assert!(marked("volatile") && marked("fsync=0") && !marked("fsync=1"));
}

/// For how long the kernel believes what it was told: told by a layer that is changed beneath the mount, which nobody
/// should do.
#[test]
fn timeout() {
    let seen = |options, wait| {
        let place = Place::mounted(options);
        let mode = |name| fs::metadata(place.at(name)).unwrap().mode() & 0o777;
        let before = mode("mnt/f");
        f::chmod(place.at("low/f"), before ^ 0o044).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(wait));
        mode("mnt/f") == mode("low/f")
    };
    assert!(seen("timeout=0", 0));
    assert!(seen("timeout=0.2", 400));
    assert!(!seen("timeout=60", 0));
    assert!(!seen("noacl", 0), "a day");
}

/// Owners and modes are kept in an attribute: files belong to the server, which needs no right to give them away.
#[test]
fn owners_in_an_attribute() {
    for (option, name) in [
        ("xattr_permissions=2", stat_override::CONTAINERS),
        ("xattr_permissions=1", stat_override::PRIVILEGED),
    ] {
        let place = Place::mounted(option);
        f::chmod(place.0.path(), 0o755).unwrap();
        f::chmod(place.at("mnt"), 0o2777).unwrap();
        f::chown(place.at("mnt"), None, Some(50)).unwrap();
        f::as_user(1000, 1000, &[], || {
            drop(f::open(place.at("mnt/u"), OFlags::WRONLY | OFlags::CREATE, 0o640).unwrap());
            f::mkdir(place.at("mnt/made"), 0o700).unwrap();
            f::chmod(place.at("mnt/u"), 0o4711).unwrap();
            f::refused(f::chown(place.at("mnt/u"), Some(1001), None), Errno::PERM);
            f::refused(f::append(place.at("mnt/f"), "x"), Errno::ACCESS);
        });
        f::append(place.at("mnt/f"), "copied up").unwrap();
        f::write(place.at("mnt/r"), "").unwrap();
        f::chmod(place.at("mnt/r"), 0o6755).unwrap();
        f::chown(place.at("mnt/r"), Some(5), Some(6)).unwrap();
        let text = |path: &str| String::from_utf8(f::get_xattr(place.at(path), name).unwrap()).unwrap();
        let real = |path: &str| (place.owner(path), f::mode(place.at(path)).unwrap());
        assert_eq!(
            (text("up/u"), real("up/u")),
            ("1000:50:4711".into(), ((0, 0), 0o711))
        );
        assert_eq!(
            (text("up/made"), real("up/made")),
            ("1000:50:2700".into(), ((0, 0), 0o700))
        );
        assert_eq!(
            (text("up/f"), real("up/f")),
            ("100005:200006:644".into(), ((0, 0), 0o644))
        );
        assert_eq!((text("up/r"), real("up/r")), ("5:6:755".into(), ((0, 0), 0o755)));
        f::refused(f::get_xattr(place.at("mnt/u"), name), Errno::NODATA);
        assert_eq!(f::list_xattrs(place.at("mnt/u")).unwrap(), [""; 0]);
        let shown = || ["mnt/u", "mnt/made", "mnt/f", "mnt/r", "mnt"].map(real);
        let before = shown();
        assert_eq!(before[0], ((1000, 50), 0o4711));
        assert_eq!(before[1], ((1000, 50), 0o2700));
        assert_eq!(
            (before[2], before[3]),
            (((100_005, 200_006), 0o644), ((5, 6), 0o755))
        );
        // Without being asked again, and what it wrote is changed the same way.
        place.unmount();
        place.mount("xino=off");
        assert_eq!(shown(), before);
        f::as_user(1000, 1000, &[], || f::append(place.at("mnt/u"), "x").unwrap());
        assert_eq!(
            f::mode(place.at("mnt/u")),
            Ok(0o711),
            "a stranger to privilege wrote"
        );
        f::chown(place.at("mnt/made"), Some(7), None).unwrap();
        assert_eq!(text("up/made"), "7:50:2700");
    }
}
