//! `strata mount` and `strata umount`, and the program under its other names. What the file system does is the
//! contract's (`root_contract_fuse`).

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::Ended;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");

/// Directories for one overlay, at `mnt`; unmounted when the value goes.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        assert!(
            rustix::process::geteuid().is_root(),
            "overlays are mounted here: run the tests as root"
        );
        let dir = tempfile::tempdir().unwrap();
        for name in ["low", "top", "up", "work", "mnt"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("low/low"), "low").unwrap();
        fs::write(dir.path().join("top/top"), "top").unwrap();
        Place(dir)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command of the program, in the directory: relative paths are meant from there.
    fn command(&self, name: impl AsRef<std::ffi::OsStr>, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg0(name)
            .args(words)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn strata(&self, words: &[&str]) -> Ended {
        self.command("strata", words).output().unwrap().into()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> Ended {
        let ended = self.strata(words);
        assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
        ended
    }

    /// Type, source and options in the mount table.
    fn entry(&self) -> Option<mount::table::Entry> {
        mount::table::at(&self.at("mnt").canonicalize().unwrap()).unwrap()
    }

    fn server(&self) -> i32 {
        let mut buffer = [0u8; 64];
        let length = rustix::fs::getxattr(self.at("mnt"), "security.strata.server", &mut buffer[..]).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while sys::mount::detach_at(self.at("mnt")).is_ok() {}
    }
}

const LOWER: &str = "lowerdir=top:low";
const WRITABLE: &str = "lowerdir=top:low,upperdir=up,workdir=work";

fn lives(pid: i32) -> bool {
    // A zombie has ended; its parent may be a test that has not reaped it.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_mount_is_there_when_the_command_returns_and_its_server_gone_when_it_is_unmounted() {
    let place = Place::new();
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    let entry = place.entry().unwrap();
    assert_eq!(
        (entry.kind.as_str(), entry.source.to_str()),
        ("fuse.strata", Some("overlay"))
    );
    assert_eq!(fs::read_to_string(place.at("mnt/low")).unwrap(), "low");
    fs::write(place.at("mnt/new"), "new").unwrap();
    let server = place.server();
    assert!(lives(server));
    place.ok(&["umount", "mnt"]);
    assert!(!lives(server));
    assert!(place.entry().is_none());
    assert_eq!(fs::read_to_string(place.at("up/new")).unwrap(), "new");
}

#[test]
fn the_kernel_serves_where_it_can() {
    let place = Place::new();
    let ended = place.ok(&["mount", "-v", "-o", WRITABLE, "mnt"]);
    assert_eq!(
        ended.err,
        "mounted with the kernel's overlay (it takes these layers and options)\n"
    );
    assert_eq!(place.entry().unwrap().kind, "overlay");
    place.ok(&["umount", "mnt"]);
    let squashed = format!("{LOWER},squash_to_root");
    let ended = place.ok(&["mount", "-v", "-o", &squashed, "mnt"]);
    assert_eq!(
        ended.err,
        "mounted with FUSE (the kernel's overlay has no squash_to_root)\n"
    );
    assert_eq!(place.entry().unwrap().kind, "fuse.strata");
    place.ok(&["umount", "mnt"]);
    let ended = place.strata(&["mount", "--driver", "kernel", "-o", &squashed, "mnt"]);
    assert!(
        ended.code == 125 && ended.err.contains("squash_to_root"),
        "{ended:?}"
    );
}

#[test]
fn without_an_upper_directory_nothing_is_written() {
    let place = Place::new();
    place.ok(&["mount", "--driver", "fuse", "-o", LOWER, "mnt"]);
    assert_eq!(fs::read_to_string(place.at("mnt/top")).unwrap(), "top");
    let error = fs::write(place.at("mnt/top"), "x").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    // Read again: the file was never opened, only read.
    let file = fs::File::open(place.at("mnt/low")).unwrap();
    let mut two = [0; 2];
    file.read_exact_at(&mut two, 1).unwrap();
    assert_eq!(&two, b"ow");
    drop(file);
    place.ok(&["umount", "mnt"]);
}

#[test]
fn attributes_of_the_mount() {
    let place = Place::new();
    let options = format!("{WRITABLE},nosuid,nodev,noexec,noatime");
    place.ok(&["mount", "--driver", "fuse", "-o", &options, "mnt"]);
    assert_eq!(place.entry().unwrap().options, "rw,nosuid,nodev,noexec,noatime");
    place.ok(&["umount", "mnt"]);
    let options = format!("{WRITABLE},ro");
    place.ok(&["mount", "--driver", "fuse", "-o", &options, "mnt"]);
    assert!(place.entry().unwrap().options.starts_with("ro,"));
    place.ok(&["umount", "mnt"]);
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let place = Place::new();
    let cases = [
        (format!("{LOWER},nonsense"), "nonsense"),
        (format!("{LOWER},index=perhaps"), "index=perhaps"),
        ("upperdir=up,workdir=work".to_owned(), "lower"),
        (format!("{LOWER},upperdir=up"), "workdir"),
        ("lowerdir=absent".to_owned(), "absent"),
        ("lowerdir=top::low".to_owned(), "data-only"),
    ];
    for (options, word) in &cases {
        let ended = place.strata(&["mount", "--driver", "fuse", "-o", options, "mnt"]);
        assert!(
            ended.code == 125 && ended.err.contains(word),
            "{options}: {ended:?}"
        );
        assert!(place.entry().is_none());
    }
    let ended = place.strata(&["mount", "-o", LOWER, "absent"]);
    assert!(ended.code == 125 && ended.err.contains("absent"), "{ended:?}");
}

#[test]
fn where_blocks_lie_is_not_told() {
    let place = Place::new();
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    fs::write(place.at("mnt/new"), "new").unwrap();
    for file in ["mnt/low", "mnt/new"] {
        let run = |program, words: &[&str]| -> Ended {
            let mut command = Command::new(program);
            command.args(words).arg(place.at(file)).output().unwrap().into()
        };
        let extents = run("xfs_io", &["-r", "-c", "fiemap"]);
        assert!(extents.err.contains("Operation not supported"), "{extents:?}");
        // It asks block by block then, and of each is told that there is none.
        let blocks = run("filefrag", &[]);
        assert!(
            blocks.code == 0 && blocks.out.contains(" 0 extents"),
            "{blocks:?}"
        );
    }
    place.ok(&["umount", "mnt"]);
}

#[test]
fn names_with_colons_and_commas() {
    let place = Place::new();
    fs::rename(place.at("low"), place.at("a:b,c\\d")).unwrap();
    place.ok(&[
        "mount",
        "--driver",
        "fuse",
        "-o",
        "lowerdir=top:a\\:b\\,c\\\\d",
        "mnt",
    ]);
    assert_eq!(fs::read_to_string(place.at("mnt/low")).unwrap(), "low");
    place.ok(&["umount", "mnt"]);
}

#[test]
fn directories_in_use_are_refused() {
    let place = Place::new();
    for name in ["second", "otherwork", "otherup"] {
        fs::create_dir(place.at(name)).unwrap();
    }
    let upper = "lowerdir=top:low,upperdir=up,workdir=otherwork";
    let work = "lowerdir=top:low,upperdir=otherup,workdir=work";
    let crossed = "lowerdir=top:low,upperdir=work,workdir=otherwork";
    for driver in ["kernel", "fuse"] {
        place.ok(&["mount", "--driver", driver, "-o", WRITABLE, "mnt"]);
        for other in ["kernel", "fuse"] {
            for options in [WRITABLE, upper, work, crossed] {
                let ended = place.strata(&["mount", "--driver", other, "-o", options, "second"]);
                assert!(
                    ended.code == 125 && ended.err.contains("in use"),
                    "{driver}, {other}, {options}: {ended:?}"
                );
            }
        }
        for options in [WRITABLE, upper] {
            let ended = place.strata(&["fuse-overlayfs", "-o", options, "second"]);
            assert!(
                ended.code == 1 && ended.err.contains("in use"),
                "{driver}, {options}: {ended:?}"
            );
        }
        place.ok(&["umount", "mnt"]);
    }
}

/// The kernel drops a lock with its process.
#[test]
fn an_upper_directory_whose_server_was_killed_is_free() {
    let place = Place::new();
    fs::create_dir(place.at("otherwork")).unwrap();
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    let server = place.server();
    kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
    wait_for("the server ends", || {
        !lives(server) && fs::metadata(place.at("mnt")).unwrap_err().raw_os_error() == Some(107)
    });
    place.ok(&["umount", "mnt"]);
    let options = "lowerdir=top:low,upperdir=up,workdir=otherwork";
    place.ok(&["mount", "--driver", "fuse", "-o", options, "mnt"]);
    place.ok(&["umount", "mnt"]);
}

#[test]
fn a_mount_in_use_stays_unless_it_must_go() {
    let place = Place::new();
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    let server = place.server();
    let mut open = fs::File::open(place.at("mnt/low")).unwrap();
    let ended = place.strata(&["umount", "mnt"]);
    assert!(ended.code == 125 && ended.err.contains("busy"), "{ended:?}");
    assert!(lives(server));
    place.ok(&["umount", "--lazy", "mnt"]);
    assert!(!lives(server));
    let error = open.read(&mut [0; 4]).map(drop);
    assert!(
        error.is_ok() || error.unwrap_err().raw_os_error() == Some(107),
        "from the page cache, or ENOTCONN"
    );
    let ended = place.strata(&["umount", "mnt"]);
    assert!(
        ended.code == 125 && ended.err.contains("not mounted"),
        "{ended:?}"
    );
}

/// Workers stay awake for a moment after an answer, and no longer.
#[test]
fn a_server_that_nobody_asks_sleeps() {
    let place = Place::new();
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    for number in 0..100 {
        fs::write(place.at(&format!("mnt/{number}")), "new").unwrap();
    }
    let status = format!("/proc/{}/stat", place.server());
    // User and system time, in hundredths of a second.
    let took = || -> u64 {
        let text = fs::read_to_string(&status).unwrap();
        let fields = text.rsplit(')').next().unwrap().split_whitespace();
        fields
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum()
    };
    std::thread::sleep(Duration::from_millis(20));
    let before = took();
    std::thread::sleep(Duration::from_millis(300));
    assert!(took() - before <= 3, "{} of 30 hundredths", took() - before);
    place.ok(&["umount", "mnt"]);
}

#[test]
fn a_server_ends_when_it_is_told_to() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
        let server = place.server();
        kill_process(Pid::from_raw(server).unwrap(), signal).unwrap();
        wait_for("the server ends", || !lives(server));
        assert!(place.entry().is_none(), "it unmounts");
    }
}

/// What a shell prints in a mount namespace that is not the first process's; `$STRATA`, `$OPTIONS` are there.
fn in_a_namespace_of_its_own(place: &Place, script: &str) -> Ended {
    let first = "unshare --mount sh -c \"$SCRIPT\"; i=0
        while grep -qs strata-fuse /proc/[0-9]*/comm; do i=$((i+1)); [ $i -lt 400 ] || exit 9; sleep .02; done";
    Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", first])
        .env("STRATA", PROGRAM)
        .env("OPTIONS", WRITABLE)
        .env("SCRIPT", script)
        .current_dir(place.0.path())
        .output()
        .unwrap()
        .into()
}

#[test]
fn a_server_ends_with_the_namespace_of_its_mount() {
    let place = Place::new();
    let script = "$STRATA mount --driver fuse -o $OPTIONS mnt && cat mnt/low";
    let ended = in_a_namespace_of_its_own(&place, script);
    assert_eq!((ended.code, &*ended.out), (0, "low"), "{ended:?}");
}

#[test]
fn a_server_that_left_a_namespace_unmounts_there() {
    let place = Place::new();
    let script = "$STRATA mount --driver fuse -o $OPTIONS mnt && cat mnt/low
        for p in /proc/[0-9]*; do grep -qs strata-fuse $p/comm && kill ${p#/proc/}; done
        while grep -qs strata-fuse /proc/[0-9]*/comm; do sleep .02; done
        grep -c \" $PWD/mnt \" /proc/self/mounts";
    let ended = in_a_namespace_of_its_own(&place, script);
    assert_eq!(&*ended.out, "low0\n", "{ended:?}");
}

#[test]
fn a_server_that_died_leaves_a_mount_that_can_be_taken_away() {
    let place = Place::new();
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    let server = place.server();
    fs::write(place.at("mnt/kept"), "kept").unwrap();
    kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
    // ENOTCONN; ECONNABORTED for who asks in the moment between the process's end and its descriptors'.
    wait_for("the server ends", || {
        !lives(server) && fs::metadata(place.at("mnt")).unwrap_err().raw_os_error() == Some(107)
    });
    place.ok(&["umount", "mnt"]);
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    assert_eq!(fs::read_to_string(place.at("mnt/kept")).unwrap(), "kept");
    place.ok(&["umount", "mnt"]);
}

/// Several threads look at files that others rename, remove and make: nobody ever meets a whiteout, or a node that the
/// kernel has given up (EIO).
#[test]
fn names_that_change_lead_nobody_astray() {
    let place = Place::new();
    for n in 0..6 {
        fs::write(place.at(&format!("low/f{n}")), "low").unwrap();
    }
    place.ok(&["mount", "--driver", "fuse", "-o", WRITABLE, "mnt"]);
    let file = |n: u64| place.at(&format!("mnt/f{}", n % 6));
    let work = |seed: u64| {
        let mut dice = seed;
        for n in 0..6000 {
            // Knuth's generator; its upper bits are the better ones.
            dice = dice
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let path = file(dice >> 40);
            let done = match (dice >> 33) % 7 {
                0 => fs::File::open(&path).map(drop),
                1 => fs::OpenOptions::new().append(true).open(&path).map(drop),
                2 | 3 => fs::rename(&path, file(dice >> 50)),
                4 => fs::remove_file(&path),
                5 => fs::metadata(&path).map(drop),
                _ => fs::write(&path, "new"),
            };
            let fine = [std::io::ErrorKind::NotFound, std::io::ErrorKind::AlreadyExists];
            assert!(
                done.as_ref()
                    .map_or_else(|error| fine.contains(&error.kind()), |()| true),
                "{n}: {done:?}"
            );
        }
    };
    std::thread::scope(|scope| {
        for seed in 0..6 {
            scope.spawn(move || work(seed));
        }
    });
    place.ok(&["umount", "mnt"]);
}

/// A server in the foreground, told by its own words that it is mounted.
struct Foreground(Child);

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn in_the_foreground() {
    let place = Place::new();
    let mut command = place.command("strata", &["mount", "-f", "-v", "-o", WRITABLE, "mnt"]);
    let mut server = Foreground(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "mounted with FUSE (to stay in the foreground)\n");
    assert_eq!(place.server(), server.0.id() as i32);
    assert_eq!(fs::read_to_string(place.at("mnt/low")).unwrap(), "low");
    place.ok(&["umount", "mnt"]);
    assert!(server.0.wait().unwrap().success());
}

#[test]
fn as_a_helper_of_mount() {
    let place = Place::new();
    let words = [
        "name",
        "mnt",
        "-n",
        "-o",
        &format!("rw,{WRITABLE}"),
        "-t",
        "fuse.strata",
    ];
    let ended: Ended = place
        .command("mount.fuse.strata", &words)
        .output()
        .unwrap()
        .into();
    assert_eq!(ended.code, 0, "{ended:?}");
    let entry = place.entry().unwrap();
    assert_eq!(
        (entry.kind.as_str(), entry.source.to_str()),
        ("fuse.strata", Some("name"))
    );
    place.ok(&["umount", "mnt"]);
    let words = ["name", "mnt", "-o", "lowerdir=absent"];
    let ended: Ended = place
        .command("mount.fuse.strata", &words)
        .output()
        .unwrap()
        .into();
    assert_eq!(ended.code, 32, "mount(8): a mount that failed");
}

#[test]
fn as_a_drop_in_for_fuse_overlayfs() {
    let place = Place::new();
    let options = format!("{WRITABLE},volatile,uidmapping=0:1000:1:1:100000:65536,squash_to_gid=7");
    // Twice: an upper directory that was volatile is taken again.
    for by_name in [true, false] {
        let words = ["-o", &options, "mnt"];
        let mut command = match by_name {
            true => place.command("/usr/bin/fuse-overlayfs", &words),
            false => place.command("strata", &[&["fuse-overlayfs"][..], &words].concat()),
        };
        let ended: Ended = command.output().unwrap().into();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_eq!(place.entry().unwrap().kind, "fuse.fuse-overlayfs");
        let status = fs::metadata(place.at("mnt/low")).unwrap();
        assert_eq!((status.uid(), status.gid()), (1000, 7));
        place.ok(&["umount", "mnt"]);
    }
    let ended: Ended = place
        .command("fuse-overlayfs", &["-o", "lowerdir=low,plugins=x", "mnt"])
        .output()
        .unwrap()
        .into();
    assert!(ended.code == 1 && ended.err.contains("plugins=x"), "{ended:?}");
    let ended: Ended = place
        .command("fuse-overlayfs", &["--version"])
        .output()
        .unwrap()
        .into();
    assert!(ended.out.starts_with("fuse-overlayfs: "), "{ended:?}");
}

#[test]
fn the_drop_in_reads_whiteouts_that_are_names() {
    let place = Place::new();
    for dir in ["low/d", "low/e", "low/e/in", "top/d", "top/e"] {
        fs::create_dir(place.at(dir)).unwrap();
    }
    for file in [
        "low/gone",
        "low/both",
        "low/d/hidden",
        "low/e/deep",
        "top/.wh.gone",
        "top/both",
        "top/.wh.both",
        "top/d/.wh..wh..opq",
        "top/d/new",
        "top/e/.wh.in",
        "top/e/new",
    ] {
        fs::write(place.at(file), file).unwrap();
    }
    let names = |dir: &str| -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(place.at(dir))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mounted = |options: &str| {
        let ended: Ended = place
            .command("fuse-overlayfs", &["-o", options, "mnt"])
            .output()
            .unwrap()
            .into();
        assert_eq!(ended.code, 0, "{ended:?}");
    };
    mounted(WRITABLE);
    assert_eq!(names("mnt"), ["both", "d", "e", "low", "top"]);
    assert_eq!(fs::read_to_string(place.at("mnt/both")).unwrap(), "top/both");
    assert_eq!(
        (names("mnt/d"), names("mnt/e")),
        (vec!["new".to_owned()], vec!["deep".to_owned(), "new".to_owned()])
    );
    assert!(
        !place.at("mnt/gone").exists()
            && !place.at("mnt/.wh.gone").exists()
            && !place.at("mnt/d/hidden").exists()
    );
    let error = fs::write(place.at("mnt/.wh.x"), "").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    fs::write(place.at("mnt/gone"), "again").unwrap();
    fs::remove_file(place.at("mnt/d/new")).unwrap();
    fs::remove_dir(place.at("mnt/d")).unwrap();
    place.ok(&["umount", "mnt"]);
    mounted(WRITABLE);
    assert_eq!(names("mnt"), ["both", "e", "gone", "low", "top"]);
    assert_eq!(fs::read_to_string(place.at("mnt/gone")).unwrap(), "again");
    place.ok(&["umount", "mnt"]);
}
