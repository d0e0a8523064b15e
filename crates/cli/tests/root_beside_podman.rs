//! What a container has and may when nothing is asked, seen from inside, beside podman's: nothing here is weaker.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use common::Strata;
use testkit::Image;

/// An image that asks for a volume.
fn image() -> Image {
    Image::busybox().config("Volumes", serde_json::json!({"/asked": {}}))
}

/// The same image in both, volumes of each kind, and a directory that both show at `/both`.
struct Both {
    strata: Strata,
    dir: tempfile::TempDir,
}

impl Both {
    fn new() -> Both {
        let both = Both {
            strata: common::empty(),
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(both.dir.path().join("both")).unwrap();
        both.strata.load(&image());
        let archive = both.dir.path().join("image.tar");
        image().write_docker_archive(&archive);
        both.podman(&["load", "--quiet", "-i", archive.to_str().unwrap()]);
        both
    }

    #[track_caller]
    fn podman(&self, words: &[&str]) -> String {
        let output = Command::new("podman")
            .arg("--root")
            .arg(self.dir.path().join("root"))
            .arg("--runroot")
            .arg(self.dir.path().join("run"))
            // crun 1.8 does not run beside a cgroup2 of a hybrid machine.
            .args([
                "--storage-driver=vfs",
                "--cgroup-manager=cgroupfs",
                "--runtime=runc",
            ])
            .args(words)
            .output()
            .expect("podman runs: install the package podman");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "podman {words:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// What a script prints in strata's container, and in podman's.
    #[track_caller]
    fn say(&self, script: &str) -> [String; 2] {
        let volume = format!("{}:/both:ro", self.dir.path().join("both").display());
        let volumes = ["-v", &volume, "-v", "named:/named", "-v", "/anonymous"];
        let flags = [&["run", "--rm", "--network=none"], &volumes[..]].concat();
        let ours = [&flags[..], &["busybox", "sh", "-c", script]].concat();
        let image = self.podman(&["images", "--quiet"]);
        // Limits that need no privilege to be set.
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
        let theirs = [&flags[..], &limits, &[image.trim(), "sh", "-c", script]].concat();
        [self.strata.ok(ours), self.podman(&theirs)]
    }
}

/// Lines as a set.
fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

/// Lines of `key value…`.
fn pairs(text: &str) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.trim().split_once(['\t', ' ', ':']))
        .map(|(key, value)| (key.trim_end_matches(':'), value.trim()))
        .collect()
}

#[test]
fn its_process_has_no_more_rights() {
    let both = Both::new();
    let [ours, theirs] =
        both.say("cat /proc/self/status; echo Umask $(umask); echo Score: $(cat /proc/self/oom_score_adj)");
    let (ours, theirs) = (pairs(&ours), pairs(&theirs));
    let bits = |map: &BTreeMap<&str, &str>, set| u64::from_str_radix(map[set], 16).unwrap();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let more = bits(&ours, set) & !bits(&theirs, set);
        assert_eq!(more, 0, "{set}: {:x}", bits(&ours, set));
    }
    for key in ["Seccomp", "NoNewPrivs", "Score", "Umask"] {
        let number = |map: &BTreeMap<&str, &str>| map[key].parse::<i64>().unwrap();
        assert!(
            number(&ours) >= number(&theirs),
            "{key}: {} {}",
            ours[key],
            theirs[key]
        );
    }
    assert_eq!(ours["Groups"], "0");
}

/// What podman's container cannot read or write of the kernel's file systems, ours cannot.
#[test]
fn the_kernels_files_show_and_take_no_more() {
    let both = Both::new();
    // Opened for writing, and nothing written.
    let script = "{ find /proc -xdev -maxdepth 4 -type f ! -path '/proc/[0-9]*' ! -path '/proc/self/*' \
        ! -path '/proc/thread-self/*'; find /sys -xdev -maxdepth 3 -type f; } 2>/dev/null | while read -r file; do
            (: >>$file) 2>/dev/null && echo writes $file
            case $file in /proc/kmsg|*/trace_pipe) continue ;; esac
            (read -r -n 1 first <$file) 2>/dev/null && echo reads $file
        done
        for dir in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/fs/selinux /sys/dev/block \
            /sys/devices/virtual/powercap; do for file in $dir/*; do [ -e $file ] && echo shows $file; done; done
        dmesg 2>/dev/null | head -1 | sed 's/.*/reads kernel log/'
        find /dev ! -type d ! -type l | sed 's/^/device /'
        true";
    let [ours, theirs] = both.say(script);
    let (ours, theirs) = (lines(&ours), lines(&theirs));
    assert!(theirs.len() > 20, "{theirs:?}");
    let more: Vec<_> = ours.difference(&theirs).collect();
    // Of the files that come and go with devices and time.
    assert!(more.is_empty(), "{more:#?}");
}

#[test]
fn mounts_allow_no_more() {
    let both = Both::new();
    let [ours, theirs] = both.say("cat /proc/mounts");
    let table = |text: &str| -> BTreeMap<String, BTreeSet<String>> {
        let line = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            let options = words[3].split(',').map(str::to_owned).collect();
            (words[1].to_owned(), options)
        };
        text.lines().map(line).collect()
    };
    let (ours, theirs) = (table(&ours), table(&theirs));
    let mut compared = 0;
    for (place, options) in &theirs {
        let Some(own) = ours.get(place) else { continue };
        compared += 1;
        for option in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(
                !options.contains(option) || own.contains(option),
                "{place} is not {option}: {own:?}"
            );
        }
    }
    assert!(compared >= 9, "{ours:?} {theirs:?}");
    for place in ["/named", "/anonymous", "/asked"] {
        for option in ["rw", "nosuid", "nodev"] {
            assert!(
                ours[place].contains(option) && theirs[place].contains(option),
                "{place}"
            );
        }
    }
    for place in ["/proc/sys", "/proc/kcore", "/sys", "/sys/firmware"] {
        assert_eq!(ours.contains_key(place), theirs.contains_key(place), "{place}");
    }
}

/// Namespaces that podman's container has of its own, ours has.
#[test]
fn it_shares_no_more_with_the_machine() {
    let both = Both::new();
    let script =
        "for name in cgroup ipc mnt net pid uts user; do echo $name $(readlink /proc/self/ns/$name); done";
    let [ours, theirs] = both.say(script);
    let (ours, theirs) = (pairs(&ours), pairs(&theirs));
    for (name, theirs) in theirs {
        let hosts = std::fs::read_link(Path::new("/proc/self/ns").join(name)).unwrap();
        let hosts = hosts.to_str().unwrap();
        // On cgroup v1 podman gives none.
        assert!(theirs == hosts || ours[name] != hosts, "{name}");
    }
}

/// No container fills the machine with processes, whatever counts them here.
#[test]
fn it_has_no_more_processes() {
    let both = Both::new();
    let script = "(n=0; while [ $n -lt 3000 ]; do sleep 1000 > /dev/null & n=$((n+1)); echo $n; done) 2>/dev/null | tail -n 1";
    let [ours, theirs] = both.say(script).map(|said| said.trim().parse::<u32>().unwrap());
    assert!(theirs < 3000, "podman's are not counted: {theirs}");
    assert!(ours <= theirs, "{ours} {theirs}");
    both.strata.ok(["create", "--name", "box", "busybox"]);
    let told = |name| {
        both.strata
            .ok(["inspect", "-f", "{{.HostConfig.PidsLimit}}", name])
    };
    assert_eq!(told("box"), "2048\n");
    both.strata
        .ok(["create", "--name", "free", "--pids-limit=-1", "busybox"]);
    assert_ne!(told("free"), "2048\n");
}

/// Each system call that podman's filter refuses, ours refuses.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_filter_lets_no_more_through() {
    let both = Both::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/tests/probe.c");
    let built = Command::new("cc")
        .args(["-O1", "-static", "-o"])
        .arg(both.dir.path().join("both/probe"))
        .arg(source)
        .status();
    assert!(built.expect("a C compiler (package gcc)").success());
    // Not those that end, copy or hold up who calls them, whatever their arguments: rt_sigreturn, pause, clone, fork, vfork,
    // exit, rt_sigsuspend, sync, exit_group; each with arguments that mean nothing.
    let script = "for n in $(seq 0 470); do
        case $n in 15|34|56|57|58|60|130|162|231) continue ;; esac
        echo $n $(/both/probe native $n -1 -1 -1 2>/dev/null)
    done";
    let [ours, theirs] = both.say(script);
    let (ours, theirs) = (pairs(&ours), pairs(&theirs));
    assert!(theirs.len() > 400);
    let refused = |answer: &str| ["-1", "-38"].contains(&answer);
    // From Linux 5.16 on: the library of Debian 12's podman has no names for them, so that its profile cannot allow one.
    let nameless = |number: &str| number.parse::<u32>().unwrap() >= 449;
    let more: Vec<_> = theirs
        .iter()
        .filter(|(number, answer)| refused(answer) && !nameless(number) && !refused(ours[*number]))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}
