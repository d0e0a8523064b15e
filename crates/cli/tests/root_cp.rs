//! `strata cp`: docker's rules, streams, owners, and containers that want to be written elsewhere. Needs root.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Ended, Strata, busybox, refused};

/// A container `box`, which runs or has ended.
struct Copied {
    strata: Strata,
    running: Option<Child>,
}

impl Copied {
    /// `script` prepares it.
    fn new(runs: bool, flags: &[&str], script: &str) -> Copied {
        let strata = busybox();
        let here = strata.dir().join("here");
        fs::create_dir(&here).unwrap();
        let script = match runs {
            true => format!("{script}; touch /ready; sleep 1000"),
            false => format!("{script}; touch /ready"),
        };
        let words = [
            &["run", "--name", "box"],
            flags,
            &["busybox", "sh", "-c", &script],
        ]
        .concat();
        let running = match runs {
            false => {
                strata.ok(words);
                None
            }
            true => Some(strata.command(words).stdout(Stdio::null()).spawn().unwrap()),
        };
        let copied = Copied { strata, running };
        let end = Instant::now() + Duration::from_secs(20);
        while !copied.strata.end(["diff", "box"]).out.contains("A /ready") {
            assert!(Instant::now() < end, "the container does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        copied
    }

    fn here(&self, name: &str) -> PathBuf {
        self.strata.dir().join("here").join(name)
    }

    fn text(&self, name: &str) -> String {
        self.here(name).to_str().unwrap().to_owned()
    }

    fn cp(&self, words: &[&str]) -> Ended {
        self.strata.end([&["cp"], words].concat())
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) {
        self.strata.ok([&["cp"], words].concat());
    }

    /// What a file in the container holds, taken out by its stream.
    #[track_caller]
    fn inside(&self, path: &str) -> String {
        let _ = fs::remove_file(self.here("out"));
        self.ok(&[&format!("box:{path}"), &self.text("out")]);
        fs::read_to_string(self.here("out")).unwrap()
    }

    fn end(mut self) {
        self.strata.ok(["rm", "-f", "box"]);
        if let Some(mut running) = self.running.take() {
            running.wait().unwrap();
        }
    }
}

fn rules(runs: bool) {
    let copied = Copied::new(
        runs,
        &[],
        "mkdir -p /d/sub; echo one > /d/one; echo two > /d/sub/two; ln -s /d /link",
    );
    fs::write(copied.here("file"), "from here").unwrap();
    fs::create_dir_all(copied.here("tree/deep")).unwrap();
    fs::write(copied.here("tree/deep/leaf"), "leaf").unwrap();
    let (file, tree) = (copied.text("file"), copied.text("tree"));

    // A file to a name, over a file, into a directory, by a link that means one.
    copied.ok(&[&file, "box:/new"]);
    assert_eq!(copied.inside("/new"), "from here");
    copied.ok(&[&file, "box:/d/one"]);
    assert_eq!(copied.inside("/d/one"), "from here");
    copied.ok(&[&file, "box:/d"]);
    copied.ok(&[&file, "box:link/sub/"]);
    assert_eq!(copied.inside("/d/file"), "from here");
    assert_eq!(copied.inside("d/sub/file"), "from here");
    // A directory to a name, into a directory, its contents.
    copied.ok(&[&tree, "box:/copy"]);
    assert_eq!(copied.inside("/copy/deep/leaf"), "leaf");
    copied.ok(&[&tree, "box:/d"]);
    assert_eq!(copied.inside("/d/tree/deep/leaf"), "leaf");
    copied.ok(&[&format!("{tree}/."), "box:/d"]);
    assert_eq!(copied.inside("/d/deep/leaf"), "leaf");
    // The other way.
    copied.ok(&["box:/d/sub", &copied.text("sub")]);
    assert_eq!(fs::read_to_string(copied.here("sub/two")).unwrap(), "two\n");
    copied.ok(&["box:/d/sub/.", &copied.text("sub")]);
    copied.ok(&["box:/d/sub", &copied.text("sub")]);
    assert_eq!(fs::read_to_string(copied.here("sub/sub/two")).unwrap(), "two\n");
    // A link as it is, and followed.
    copied.ok(&["box:/link", &copied.text("as-it-is")]);
    assert_eq!(fs::read_link(copied.here("as-it-is")).unwrap(), Path::new("/d"));
    copied.ok(&["-L", "box:/link", &copied.text("followed")]);
    assert!(copied.here("followed/sub/two").is_file());
    // Within one container.
    copied.ok(&["box:/d/sub/two", "box:/again"]);
    assert_eq!(copied.inside("/again"), "two\n");

    refused(&copied.cp(&[&file, "box:/missing/"]), &["/missing/"]);
    refused(&copied.cp(&[&file, "box:/missing/x"]), &["/missing"]);
    refused(&copied.cp(&[&tree, "box:/new"]), &["/new"]);
    refused(&copied.cp(&["box:/nosuch", &copied.text("x")]), &["/nosuch"]);
    refused(&copied.cp(&[&format!("{file}/"), "box:/x"]), &["no directory"]);
    refused(&copied.cp(&[&file, "nosuch:/x"]), &["nosuch"]);
    refused(&copied.cp(&[&file, &tree]), &["container"]);
    refused(&copied.cp(&[&tree, "box:/d/one/x"]), &["/d/one"]);
    copied.end();
}

#[test]
fn the_rules_with_a_container_that_runs() {
    rules(true);
}

#[test]
fn the_rules_with_one_that_has_ended() {
    rules(false);
}

#[test]
fn streams_and_owners() {
    let copied = Copied::new(
        true,
        &[],
        "mkdir /d; echo x > /d/x; chown 1000:2000 /d/x; chmod 4750 /d/x",
    );
    // Out as a tar, and in again.
    let out = copied.strata.command(["cp", "box:/d", "-"]).output().unwrap();
    assert!(out.status.success());
    let mut child = copied
        .strata
        .command(["cp", "-a", "-", "box:/tmp"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&out.stdout).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(copied.inside("/tmp/d/x"), "x\n");
    // Owners stay with -a; else they are root's in a container, the caller's here.
    copied.ok(&["-a", "box:/tmp/d/x", &copied.text("kept")]);
    let kept = fs::metadata(copied.here("kept")).unwrap();
    assert_eq!(
        (kept.uid(), kept.gid(), kept.mode() & 0o7777),
        (1000, 2000, 0o4750)
    );
    copied.ok(&["box:/d/x", &copied.text("mine")]);
    let mine = fs::metadata(copied.here("mine")).unwrap();
    assert_eq!((mine.uid(), mine.gid()), (0, 0));
    assert_eq!(mine.mtime(), kept.mtime());
    refused(&copied.cp(&["box:/nosuch", "-"]), &["/nosuch"]);
    let mut child = copied
        .strata
        .command(["cp", "-", "box:/d/x"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(125));
    copied.end();
}

#[test]
fn what_is_mounted_in_a_container_that_runs() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("shared"), "shared").unwrap();
    let volume = format!("{}:/v", outside.path().display());
    let copied = Copied::new(true, &["-v", &volume, "--tmpfs", "/t"], "echo tmpfs > /t/f");
    assert_eq!(copied.inside("/v/shared"), "shared");
    assert_eq!(copied.inside("/t/f"), "tmpfs\n");
    fs::write(copied.here("in"), "in").unwrap();
    copied.ok(&[&copied.text("in"), "box:/v/"]);
    assert_eq!(fs::read_to_string(outside.path().join("in")).unwrap(), "in");
    // One file that is mounted is written over, as nothing can take its place.
    copied.ok(&[&copied.text("in"), "box:/etc/hosts"]);
    assert_eq!(copied.inside("/etc/hosts"), "in");
    // What only shows the kernel's state is passed by.
    copied.ok(&["box:/", &copied.text("all")]);
    assert_eq!(fs::read_dir(copied.here("all/proc")).unwrap().count(), 0);
    assert!(copied.here("all/bin/busybox").is_file());
    copied.end();
}

#[test]
fn a_hostile_container_is_not_left() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let out = outside.path().display();
    let script = format!(
        "ln -s {out} /to; ln -s /../../../..{out}/secret /file; ln -s /proc/1/root/.. /up; mkdir /d; ln -s {out} /d/sub; \
         ln -s /etc /inner"
    );
    for runs in [true, false] {
        let copied = Copied::new(runs, &[], &script);
        fs::write(copied.here("f"), "written").unwrap();
        fs::create_dir_all(copied.here("tree/sub")).unwrap();
        fs::write(copied.here("tree/sub/secret"), "over").unwrap();
        // Links are the container's own: outside nothing is read and nothing written.
        refused(&copied.cp(&["-L", "box:/file", &copied.text("x")]), &["/file"]);
        refused(&copied.cp(&[&copied.text("f"), "box:/to/secret"]), &["/to"]);
        refused(
            &copied.cp(&[&copied.text("f"), &format!("box:/../../..{out}/secret")]),
            &["there is no"],
        );
        refused(
            &copied.cp(&[&format!("{}/.", copied.text("tree")), "box:/d"]),
            &["sub"],
        );
        let _ = copied.cp(&["-L", "box:/up", &copied.text("up")]);
        assert!(!copied.here("up/boot").exists());
        // A tar that wants out.
        let mut tar = Vec::new();
        for name in ["../../escaped", "inner/x"] {
            let mut header = [0u8; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..108].copy_from_slice(b"0000644\0");
            header[124..136].copy_from_slice(b"00000000000\0");
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            tar.push(header.to_vec());
        }
        for header in tar {
            let mut child = copied
                .strata
                .command(["cp", "-", "box:/"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let _ = child
                .stdin
                .take()
                .unwrap()
                .write_all(&[header, vec![0; 1024]].concat());
            let ended = child.wait_with_output().unwrap();
            assert_eq!(
                ended.status.code(),
                Some(125),
                "{}",
                String::from_utf8_lossy(&ended.stderr)
            );
        }
        assert_eq!(
            fs::read_to_string(outside.path().join("secret")).unwrap(),
            "secret"
        );
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        copied.end();
    }
}

#[test]
fn links_here_are_followed_as_the_caller_would() {
    let copied = Copied::new(false, &[], "true");
    fs::create_dir(copied.here("real")).unwrap();
    symlink(copied.here("real"), copied.here("link")).unwrap();
    copied.ok(&["box:/etc/passwd", &copied.text("link")]);
    assert!(copied.here("real/passwd").is_file());
    fs::set_permissions(copied.here("real/passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("real/passwd", copied.here("to-file")).unwrap();
    copied.ok(&["-L", &copied.text("to-file"), "box:/got"]);
    assert!(copied.inside("/got").starts_with("root:"));
    // It was mounted for the copy alone, and starts as before.
    assert_eq!(copied.strata.in_use(), (Vec::new(), Vec::new()));
    copied.end();
}
