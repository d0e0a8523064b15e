//! Layers on NFS. Runs in the virtual machine only (`cargo xtask test`), which is server and client at once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use rustix::mount::MountFlags;
use testkit::Ended;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");

/// What is exported, and where it is mounted.
const EXPORTED: &str = "/srv/exported";
const MOUNTED: &str = "/srv/mounted";

/// Starts the kernel's server, and mounts what it exports. What a daemon would tell the kernel when it asks who may have
/// what (nfsd(7)) is told it beforehand.
fn nfs() -> PathBuf {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        for dir in [EXPORTED, MOUNTED, "/var/lib/nfs/v4recovery"] {
            fs::create_dir_all(dir).unwrap();
        }
        let none = MountFlags::empty();
        rustix::mount::mount("nfsd", "/proc/fs/nfsd", "nfsd", none, c"").unwrap();
        let tell = |file: &str, text: &str| {
            fs::write(Path::new("/proc").join(file), format!("{text}\n"))
                .unwrap_or_else(|error| panic!("{file}, {text}: {error}"));
        };
        // Insecure ports, asynchronous, no check of subtrees, known by a number: that is 0, the root of NFS 4.
        let flags = 0x2 | 0x10 | 0x400 | 0x2000;
        tell("net/rpc/auth.unix.ip/channel", "nfsd 127.0.0.1 2147483647 us");
        tell(
            "net/rpc/nfsd.fh/channel",
            &format!("us 1 \\x00000000 2147483647 {EXPORTED}"),
        );
        tell(
            "net/rpc/nfsd.export/channel",
            &format!("us {EXPORTED} 2147483647 {flags} 65534 65534 0"),
        );
        tell("fs/nfsd/nfsv4gracetime", "10");
        tell("fs/nfsd/versions", "-3 +4 +4.1 +4.2");
        tell("fs/nfsd/portlist", "tcp 2049");
        tell("fs/nfsd/threads", "2");
        let options = c"addr=127.0.0.1,vers=4.2,clientaddr=127.0.0.1";
        rustix::mount::mount("127.0.0.1:/", MOUNTED, "nfs4", none, options).unwrap();
    });
    MOUNTED.into()
}

fn strata(place: &Path, words: &[&str]) -> Ended {
    let mut command = Command::new(PROGRAM);
    command.args(words).current_dir(place).output().unwrap().into()
}

/// What a lower directory is put to: each way to change it, and what is seen then.
fn use_it(mnt: &Path) -> Vec<String> {
    let at = |name: &str| mnt.join(name);
    fs::write(
        at("changed"),
        format!("{}+", fs::read_to_string(at("changed")).unwrap()),
    )
    .unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::rename(at("file"), at("renamed")).unwrap();
    fs::rename(at("dir"), at("moved")).unwrap();
    fs::hard_link(at("one"), at("three")).unwrap();
    fs::set_permissions(at("one"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_dir_all(at("tree")).unwrap();
    fs::create_dir(at("tree")).unwrap();
    look(mnt)
}

fn look(mnt: &Path) -> Vec<String> {
    let mut seen = Vec::new();
    let mut left = vec![mnt.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let status = path.symlink_metadata().unwrap();
            let content = match status.is_dir() {
                true => String::new(),
                false => fs::read_to_string(&path).unwrap(),
            };
            let name = path.strip_prefix(mnt).unwrap().display();
            seen.push(format!("{name} {:o} {} {content:?}", status.mode(), status.uid()));
            left.extend(status.is_dir().then_some(path));
        }
    }
    seen.sort();
    seen
}

/// Both drivers show the same after the same changes, and after a mount by the other; nothing is written to it.
#[test]
fn it_is_a_lower_directory() {
    let nfs = nfs();
    let low = nfs.join("low");
    for dir in ["dir", "tree/deep"] {
        fs::create_dir_all(low.join(dir)).unwrap();
    }
    for name in [
        "changed",
        "gone",
        "file",
        "one",
        "dir/in",
        "tree/in",
        "tree/deep/in",
    ] {
        fs::write(low.join(name), name).unwrap();
    }
    fs::hard_link(low.join("one"), low.join("two")).unwrap();
    let before = look(&low);
    let mut shown = Vec::new();
    for (driver, other) in [("kernel", "fuse"), ("fuse", "kernel")] {
        let place = tempfile::tempdir().unwrap();
        for name in ["up", "work", "mnt"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir=up,workdir=work,redirect_dir=on",
            low.display()
        );
        let mnt = place.path().join("mnt");
        let with = |driver: &str, act: &dyn Fn() -> Vec<String>| {
            let mounted = strata(
                place.path(),
                &["mount", "--driver", driver, "-o", &options, "mnt"],
            );
            assert_eq!(mounted.code, 0, "{driver}: {mounted:?}");
            let seen = act();
            let unmounted = strata(place.path(), &["umount", "mnt"]);
            assert_eq!(unmounted.code, 0, "{driver}: {unmounted:?}");
            seen
        };
        let seen = with(driver, &|| use_it(&mnt));
        assert_eq!(seen, with(other, &|| look(&mnt)), "{driver}, then {other}");
        assert_eq!(seen, with(driver, &|| look(&mnt)), "{driver}");
        shown.push(seen);
    }
    assert_eq!(shown[0], shown[1]);
    assert!(
        shown[0].iter().any(|line| line.starts_with("moved/in ")),
        "{shown:?}"
    );
    assert_eq!(before, look(&low));
}

/// Neither driver writes to it: names cannot be swapped, and without `userxattr` it takes no attributes.
#[test]
fn it_is_no_upper_directory() {
    let nfs = nfs();
    let place = tempfile::tempdir().unwrap();
    for name in ["low", "mnt"] {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    for name in ["up", "work"] {
        fs::create_dir(nfs.join(name)).unwrap();
    }
    let writable = format!("lowerdir=low,upperdir={0}/up,workdir={0}/work", nfs.display());
    for options in [writable.clone(), format!("{writable},userxattr")] {
        let kernel = strata(
            place.path(),
            &["mount", "--driver", "kernel", "-o", &options, "mnt"],
        );
        assert_eq!(kernel.code, 125, "{kernel:?}");
        let ours = strata(
            place.path(),
            &["mount", "--driver", "fuse", "-o", &options, "mnt"],
        );
        assert!(
            ours.code == 125 && ours.err.contains("swap two names"),
            "{options}: {ours:?}"
        );
    }
}
