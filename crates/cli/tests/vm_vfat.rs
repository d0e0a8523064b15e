//! Layers on vfat, which has no owners, no attributes, no links, and names without case. Runs in the virtual machine only,
//! whose kernel has it (`cargo xtask test`).

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::{Disk, Ended};

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");

fn vfat() -> Disk {
    Disk::new("vfat", &["mkfs.vfat"], 32 << 20, "rw")
}

fn mount(driver: &str, options: &str, place: &Path) -> Ended {
    let words = ["mount", "--driver", driver, "-o", options, "mnt"];
    let mut command = Command::new(PROGRAM);
    command.args(words).current_dir(place).output().unwrap().into()
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in ["low", "up", "work", "mnt"] {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    place
}

/// Neither driver writes to it: there is no way to say that something is gone.
#[test]
fn it_is_no_upper_directory() {
    let (disk, place) = (vfat(), place());
    let at = disk.path();
    for name in ["up", "work"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    let options = format!("lowerdir=low,upperdir={0}/up,workdir={0}/work", at.display());
    let kernel = mount("kernel", &options, place.path());
    assert_eq!(kernel.code, 125, "{kernel:?}");
    let ours = mount("fuse", &options, place.path());
    assert!(
        ours.code == 125 && ours.err.contains("hold whiteouts"),
        "{ours:?}"
    );
}

/// The kernel's overlay takes no file system without case; ours reads it as it is.
#[test]
fn it_is_a_lower_directory_of_ours() {
    let (disk, place) = (vfat(), place());
    let at = disk.path();
    fs::create_dir(at.join("Dir")).unwrap();
    fs::write(at.join("Dir/file"), "lower").unwrap();
    fs::write(at.join("gone"), "lower").unwrap();
    let options = format!("lowerdir={},upperdir=up,workdir=work", at.display());
    let kernel = mount("kernel", &options, place.path());
    assert_eq!(kernel.code, 125, "{kernel:?}");
    let mnt = place.path().join("mnt");
    for _ in 0..2 {
        let ours = mount("auto", &options, place.path());
        assert_eq!(ours.code, 0, "{ours:?}");
        let (file, gone) = (mnt.join("Dir/file"), mnt.join("gone"));
        let content = fs::read_to_string(&file).unwrap();
        assert!(content.starts_with("lower"), "{content}");
        fs::write(&file, format!("{content}+")).unwrap();
        if gone.exists() {
            fs::remove_file(&gone).unwrap();
        }
        assert_eq!(fs::read_dir(&mnt).unwrap().count(), 1);
        let ended: Ended = Command::new(PROGRAM)
            .arg("umount")
            .arg(&mnt)
            .output()
            .unwrap()
            .into();
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    assert_eq!(
        fs::read_to_string(place.path().join("up/Dir/file")).unwrap(),
        "lower++"
    );
    assert_eq!(fs::read_to_string(at.join("Dir/file")).unwrap(), "lower");
}
