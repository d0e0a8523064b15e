//! What the options of `strata mount` mean: the same as to mount(8) and the kernel's overlay, or a refusal that names them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fuse::options::Options;
use mount::{Mount, MountError};
use testkit::Ended;

mod common;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");
const WRITABLE: &str = "lowerdir=low,upperdir=up,workdir=work";

/// Directories for one overlay, at `mnt`; unmounted when the value goes.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        assert!(
            rustix::process::geteuid().is_root(),
            "overlays are mounted here: run the tests as root"
        );
        let dir = tempfile::tempdir().unwrap();
        for name in ["low", "up", "work", "mnt"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("low/low"), "low").unwrap();
        Place(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn strata(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(PROGRAM);
        command
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command.output().unwrap().into()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> Ended {
        let ended = self.strata(words);
        assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
        ended
    }

    fn entry(&self) -> mount::table::Entry {
        let target = self.at("mnt").canonicalize().unwrap();
        mount::table::at(&target).unwrap().expect("mounted")
    }

    /// Makes upper and work directory anew.
    fn empty(&self) {
        for name in ["up", "work"] {
            fs::remove_dir_all(self.at(name)).unwrap();
            fs::create_dir(self.at(name)).unwrap();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while sys::mount::detach_at(self.at("mnt")).is_ok() {}
    }
}

/// Whether the kernel's overlay takes these options. It calls directories busy until the last user of the mount before
/// is gone.
fn kernel_takes(lower: &[&Path], writable: Option<(&Path, &Path)>, words: &[&str], at: &Path) -> bool {
    let value = Mount::overlay(lower, writable, words);
    for _ in 0..1000 {
        match mount::attach(&value, at) {
            Ok(()) => {
                mount::detach(at).unwrap();
                return true;
            }
            Err(MountError::Refused { error, .. }) if error.errno.raw_os_error() == Some(22) => return false,
            Err(MountError::Refused { error, .. }) if error.errno.raw_os_error() == Some(16) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{words:?}: {error}"),
        }
    }
    panic!("{words:?}: stays busy")
}

/// Every combination of the options that depend on each other: the kernel's overlay first, and ours takes what it takes.
#[test]
fn what_excludes_each_other_is_what_the_kernel_says() {
    let place = Place::new();
    // Two: without an upper directory the kernel takes no fewer.
    let (low, other) = (place.at("low"), place.at("other"));
    fs::create_dir(&other).unwrap();
    let lower: [&Path; 2] = [&low, &other];
    let (upper, work, at) = (place.at("up"), place.at("work"), place.at("mnt"));
    // Since Linux 6.5.
    let verity: &[&str] = match kernel_takes(&lower, None, &["verity=off"], &at) {
        true => &["", "verity=on", "verity=off"],
        false => &[""],
    };
    let choices: [&[&str]; 6] = [
        &[
            "",
            "redirect_dir=on",
            "redirect_dir=off",
            "redirect_dir=follow",
            "redirect_dir=nofollow",
        ],
        &["", "metacopy=on", "metacopy=off"],
        &["", "index=on", "index=off"],
        &["", "nfs_export=on", "nfs_export=off"],
        verity,
        &["", "userxattr"],
    ];
    let mut combinations: Vec<Vec<&str>> = vec![Vec::new()];
    for choice in choices {
        let longer = |words: &Vec<&'static str>| {
            let words = words.clone();
            choice.iter().map(move |word| {
                let more = Some(*word).filter(|word| !word.is_empty());
                words.iter().copied().chain(more).collect()
            })
        };
        combinations = combinations.iter().flat_map(longer).collect();
    }
    let (mut taken, mut refused) = (0, 0);
    for words in &combinations {
        for writable in [Some((&*upper, &*work)), None] {
            let owned: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let options = Options::parse(&owned).unwrap();
            let ours = options.check(writable.is_some()).is_ok();
            let kernel = kernel_takes(&lower, writable, words, &at);
            match kernel {
                true => taken += 1,
                false => refused += 1,
            }
            let has = |word: &str| words.contains(&word);
            // What only the kernel's overlay has is refused in every case.
            let expected = match has("nfs_export=on") || has("verity=on") {
                true => false,
                // Ours keeps redirects there.
                false if has("userxattr") && !kernel => {
                    let follows = has("redirect_dir=follow") || has("redirect_dir=off");
                    let redirects = has("redirect_dir=on") || follows;
                    redirects && !has("metacopy=on")
                }
                false => kernel,
            };
            let written = writable.is_some();
            assert_eq!(
                ours, expected,
                "{words:?}, writable: {written}; the kernel: {kernel}"
            );
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}

#[test]
fn what_excludes_each_other_is_refused_by_both_drivers() {
    let place = Place::new();
    let options = format!("{WRITABLE},redirect_dir=off,metacopy=on");
    for driver in ["kernel", "fuse", "auto"] {
        let ended = place.strata(&["mount", "--driver", driver, "-o", &options, "mnt"]);
        assert_eq!(ended.code, 125, "{driver}: {ended:?}");
        if driver != "kernel" {
            assert!(
                ended.err.contains("\"metacopy=on\" and \"redirect_dir=off\""),
                "{ended:?}"
            );
        }
    }
}

/// What only the kernel's overlay has is handed to it, and the server of ours refuses it by name.
#[test]
fn options_of_the_kernel_s_overlay_alone() {
    let place = Place::new();
    let words = [
        "nfs_export=on",
        "verity=on",
        "uuid=on",
        "uuid=off",
        "sync",
        "dirsync",
        "lazytime",
    ];
    for word in words {
        let options = format!("{WRITABLE},{word}");
        for driver in ["kernel", "auto"] {
            place.empty();
            let ended = place.ok(&["mount", "-v", "--driver", driver, "-o", &options, "mnt"]);
            assert!(
                ended.err.starts_with("mounted with the kernel's overlay ("),
                "{ended:?}"
            );
            assert!(ended.err.contains(word) || driver == "kernel", "{ended:?}");
            let entry = place.entry();
            let shown = format!("{},{}", entry.options, entry.super_options.display());
            assert!(shown.split(',').any(|shown| shown == word), "{word}: {shown}");
            place.ok(&["umount", "mnt"]);
        }
        for words in [&["--driver", "fuse"][..], &["-f"]] {
            let all = [&["mount"][..], words, &["-o", &options, "mnt"]].concat();
            let ended = place.strata(&all);
            assert!(
                ended.code == 125 && ended.err.contains(word) && ended.err.contains("kernel"),
                "{ended:?}"
            );
        }
    }
    let both = format!("{WRITABLE},sync,squash_to_root");
    let ended = place.strata(&["mount", "-o", &both, "mnt"]);
    assert!(ended.code == 125 && ended.err.contains("\"sync\""), "{ended:?}");
}

/// Data-only lower directories are the kernel's overlay's alone; `auto` knows.
#[test]
fn data_only_lower_directories() {
    let place = Place::new();
    let options = "lowerdir=low::data,metacopy=on,upperdir=up,workdir=work";
    fs::create_dir(place.at("data")).unwrap();
    for driver in ["kernel", "auto"] {
        place.ok(&["mount", "--driver", driver, "-o", options, "mnt"]);
        assert_eq!(place.entry().kind, "overlay");
        place.ok(&["umount", "mnt"]);
    }
    let ended = place.strata(&["mount", "--driver", "fuse", "-o", options, "mnt"]);
    assert!(ended.code == 125 && ended.err.contains("data-only"), "{ended:?}");
}

/// The mount table shows the same attributes of both drivers, and those that were asked for.
#[test]
fn attributes_are_the_same_on_both_drivers() {
    let place = Place::new();
    let cases = [
        ("nosymfollow", "rw,relatime,nosymfollow"),
        ("users", "rw,nosuid,nodev,noexec,relatime"),
        ("nosuid,user=somebody,exec,suid,dev", "rw,relatime"),
        ("group", "rw,nosuid,nodev,relatime"),
        ("noatime,strictatime", "rw"),
        ("strictatime,noatime,nodiratime", "rw,noatime,nodiratime"),
        ("noatime,atime", "rw,relatime"),
        ("ro,rw", "rw,relatime"),
        (
            "silent,loud,nomand,noiversion,nolazytime,norelatime,nouser,nofail",
            "rw,relatime",
        ),
    ];
    for (words, shown) in cases {
        for driver in ["kernel", "fuse"] {
            let options = format!("{WRITABLE},{words}");
            place.ok(&["mount", "--driver", driver, "-o", &options, "mnt"]);
            assert_eq!(place.entry().options, shown, "{words}, {driver}");
            place.ok(&["umount", "mnt"]);
        }
    }
    for word in ["iversion", "mand", "X-mount.mkdir", "context=x", "uid=1"] {
        for driver in ["kernel", "fuse"] {
            let options = format!("{WRITABLE},{word}");
            let ended = place.strata(&["mount", "--driver", driver, "-o", &options, "mnt"]);
            // Labels the kernel knows where it has SELinux alone, and an older one answers with a number.
            let is_told = word == "context=x" || ended.err.contains(word);
            assert!(ended.code == 125 && is_told, "{ended:?}");
        }
    }
}

#[test]
fn remounting_changes_attributes() {
    let place = Place::new();
    for driver in ["kernel", "fuse"] {
        let options = format!("{WRITABLE},nosuid");
        place.ok(&["mount", "--driver", driver, "-o", &options, "mnt"]);
        let shown = || {
            let entry = place.entry();
            let first = entry
                .super_options
                .to_str()
                .unwrap()
                .split(',')
                .next()
                .unwrap()
                .to_owned();
            (entry.options, first)
        };
        place.ok(&["mount", "-o", "remount,ro,noexec", "mnt"]);
        assert_eq!(
            shown(),
            ("ro,nosuid,noexec,relatime".to_owned(), "ro".to_owned()),
            "{driver}"
        );
        let error = fs::write(place.at("mnt/new"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem, "{driver}");
        place.ok(&["mount", "-o", "remount,rw,exec", "mnt"]);
        assert_eq!(
            shown(),
            ("rw,nosuid,relatime".to_owned(), "rw".to_owned()),
            "{driver}"
        );
        fs::write(place.at("mnt/new"), "").unwrap();
        let ended = place.strata(&["mount", "-o", "remount,nonsense", "mnt"]);
        assert!(
            ended.code == 125 && ended.err.contains("nonsense"),
            "{driver}: {ended:?}"
        );
        // A file that is open for writing keeps it writable.
        let open = fs::File::create(place.at("mnt/open")).unwrap();
        let ended = place.strata(&["mount", "-o", "remount,ro", "mnt"]);
        assert!(
            ended.code == 125 && ended.err.contains("busy"),
            "{driver}: {ended:?}"
        );
        drop(open);
        place.ok(&["umount", "mnt"]);
        // What has no upper directory stays as it is.
        place.ok(&["mount", "--driver", driver, "-o", "lowerdir=low:up", "mnt"]);
        let ended = place.strata(&["mount", "-o", "remount,rw", "mnt"]);
        assert!(
            ended.code == 125 && ended.err.contains("Read-only"),
            "{driver}: {ended:?}"
        );
        place.ok(&["umount", "mnt"]);
    }
    let ended = place.strata(&["mount", "-o", "remount,ro", "mnt"]);
    assert!(
        ended.code == 125 && ended.err.contains("no mounted overlay"),
        "{ended:?}"
    );
}

/// mount(8) calls the helper to mount, and to remount with the attributes that it found in the mount table.
#[test]
fn mount_8_mounts_and_remounts() {
    let place = Place::new();
    let script = "set -e
        mkdir upper sbinwork
        mount -t overlay sbin -o lowerdir=/usr/sbin,upperdir=upper,workdir=sbinwork /usr/sbin
        ln -s $STRATA /usr/sbin/mount.fuse.strata
        shown() { grep \" $PWD/mnt \" /proc/self/mountinfo | cut -d' ' -f6; }
        mount -t fuse.strata name mnt -o lowerdir=low,upperdir=up,workdir=work,user,exec,nofail,x-any.thing=1
        shown
        umount mnt
        mount -t fuse.strata name mnt -o lowerdir=low,upperdir=up,workdir=work,nosuid
        mount -o remount,ro mnt
        shown
        ! touch mnt/new 2>/dev/null
        mount -o remount,rw mnt
        touch mnt/new
        shown
        ! mount -t fuse.strata name mnt -o lowerdir=low,sync
        umount mnt
        mount -t fuse.strata name mnt -o lowerdir=low
        ! mount -o remount,rw mnt
        umount mnt";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script])
        .env("STRATA", PROGRAM)
        .current_dir(place.0.path().canonicalize().unwrap());
    let ended: Ended = command.output().unwrap().into();
    let lines: Vec<&str> = ended.out.lines().collect();
    let wanted = [
        "rw,nosuid,nodev,relatime",
        "ro,nosuid,relatime",
        "rw,nosuid,relatime",
    ];
    assert_eq!((ended.code, &*lines), (0, &wanted[..]), "{ended:?}");
    assert!(
        ended.err.contains("option \"sync\"") && ended.err.contains("Read-only"),
        "{ended:?}"
    );
}

/// An ordinary user who forgets `userxattr` is told.
#[test]
fn a_user_is_told_of_userxattr() {
    let dir = tempfile::tempdir().unwrap();
    let reachable = common::userns::Reachable::new();
    let strata = reachable.copy(PROGRAM);
    let script = "cd $DIR && mkdir low up work mnt
        for driver in auto fuse; do
            $STRATA mount --driver $driver -o lowerdir=low,upperdir=up,workdir=work mnt
        done
        $STRATA mount -v --driver fuse -o lowerdir=low,upperdir=up,workdir=work,userxattr mnt && $STRATA umount mnt";
    let environment = [
        ("STRATA", strata.to_str().unwrap()),
        ("DIR", dir.path().to_str().unwrap()),
    ];
    let ended = common::userns::run(1, dir.path(), &["sh", "-c", script], &environment);
    assert_eq!(ended.code, 0, "{ended:?}");
    let hints = ended
        .err
        .matches("hint: in a user namespace an overlay needs the option userxattr");
    assert_eq!(hints.count(), 2, "{ended:?}");
}
