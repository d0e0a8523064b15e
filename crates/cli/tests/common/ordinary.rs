//! An ordinary user of a machine of its own: in a mount namespace in which `/etc/passwd` and the tables of subordinate ids
//! are the test's. Nothing of the real machine is changed.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use testkit::program::{mounts_beneath, processes_naming};
use testkit::{Ended, Image};

use super::userns::Reachable;

/// What `/etc/subuid` and `/etc/subgid` give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// Nothing.
    Nothing,
    /// 65536 ids.
    Range,
}

/// The user.
pub struct Ordinary {
    dir: Option<tempfile::TempDir>,
    pub uid: u32,
    /// The first of the user's subordinate ids, whether any are given or not.
    pub first: u32,
}

/// Makes the machine the test's, and becomes the user; with a file `covered` a part of its /proc is hidden, as it is in
/// containers. Words follow the directory, the id and the file of a cgroup to go
/// into first.
const BECOME: &str = r#"
dir=$1 id=$2 cgroup=$3; shift 3
test -z "$cgroup" || echo $$ > "$cgroup"
for table in passwd group subuid subgid; do
    test -e /etc/$table || : > /etc/$table
    mount --bind "$dir/etc/$table" /etc/$table
done
test ! -e "$dir/covered" || mount --bind /dev/null /proc/interrupts
cd "$dir/home"
exec setpriv --reuid "$id" --regid "$id" --clear-groups \
    env -i HOME="$dir/home" XDG_RUNTIME_DIR="$dir/run" PATH=/usr/bin:/bin SHELL=/bin/sh "$@"
"#;

pub fn strata() -> &'static Path {
    static COPY: OnceLock<(Reachable, PathBuf)> = OnceLock::new();
    let (_, path) = COPY.get_or_init(|| {
        let reachable = Reachable::new();
        let path = reachable.copy(env!("CARGO_BIN_EXE_strata"));
        (reachable, path)
    });
    path
}

impl Ordinary {
    pub fn new(given: Given) -> Ordinary {
        assert!(
            rustix::process::geteuid().is_root(),
            "users are made here: run the tests as root"
        );
        for program in ["/usr/bin/newuidmap", "/usr/bin/newgidmap"] {
            assert!(Path::new(program).exists(), "{program}: apt-get install uidmap");
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = (std::process::id() * 16 + NEXT.fetch_add(1, Ordering::Relaxed)) % 4000;
        let (uid, first) = (60_010 + place, 1_000_000 + place * 65_536);
        let dir = tempfile::Builder::new().prefix("strata-user-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let table = |name: &str, text: String| fs::write(dir.path().join("etc").join(name), text).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        table(
            "passwd",
            format!("root:x:0:0::/root:/bin/sh\nordinary:x:{uid}:{uid}::/nowhere:/bin/sh\n"),
        );
        table("group", format!("root:x:0:\nordinary:x:{uid}:\n"));
        for name in ["subuid", "subgid"] {
            let theirs = format!("ordinary:{first}:65536\n");
            let other = "somebody:100000:65536\n".to_owned();
            table(
                name,
                if given == Given::Range {
                    other + &theirs
                } else {
                    other
                },
            );
        }
        for name in ["home", "run"] {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
            chown(&path, Some(uid), Some(uid)).unwrap();
        }
        // As with root's, no test of anything else makes networks.
        let config = dir.path().join("home/.config/strata");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("config.toml"), "default_network = \"none\"\n").unwrap();
        // Other programs keep theirs beside it.
        chown(config.parent().unwrap(), Some(uid), Some(uid)).unwrap();
        Ordinary {
            dir: Some(dir),
            uid,
            first,
        }
    }

    /// With the image `busybox`.
    pub fn with_busybox(given: Given) -> Ordinary {
        let user = Ordinary::new(given);
        user.load(&Image::busybox());
        user
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// The user's home directory, and the working directory of all commands.
    pub fn home(&self) -> PathBuf {
        self.dir().join("home")
    }

    /// The store, where no word is said of it.
    pub fn root(&self) -> PathBuf {
        self.home().join(".local/share/strata")
    }

    pub fn state(&self) -> PathBuf {
        self.dir().join("run/strata")
    }

    /// Any program, run by the user.
    pub fn program<S: AsRef<OsStr>>(
        &self,
        cgroup: Option<&Path>,
        words: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-euc", BECOME, "sh"])
            .arg(self.dir())
            .arg(self.uid.to_string())
            .arg(cgroup.map(Path::as_os_str).unwrap_or_default())
            .args(words)
            .stdin(Stdio::null());
        command
    }

    /// strata, run by the user in a cgroup.
    pub fn end_in(&self, cgroup: Option<&Path>, words: &[&str]) -> Ended {
        let words = [strata().to_str().unwrap()]
            .into_iter()
            .chain(words.iter().copied());
        self.program(cgroup, words).output().unwrap().into()
    }

    /// strata, run by the user.
    pub fn end(&self, words: &[&str]) -> Ended {
        self.end_in(None, words)
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let ended = self.end(words);
        assert!(
            ended.code == 0,
            "strata {} ended with {ended:#?}",
            words.join(" ")
        );
        ended.out
    }

    /// `strata run --rm FLAGS busybox sh -c SCRIPT`: what the script printed.
    #[track_caller]
    pub fn said(&self, flags: &[&str], script: &str) -> String {
        self.ok(&[&["run", "--rm"], flags, &["busybox", "sh", "-c", script]].concat())
    }

    #[track_caller]
    pub fn load(&self, image: &Image) {
        let archive = self.dir().join("load.tar");
        image.write_oci_archive(&archive);
        self.ok(&["load", "--quiet", "-i", archive.to_str().unwrap()]);
        fs::remove_file(archive).unwrap();
    }

    /// The process that keeps the user's namespaces, where there is one.
    pub fn holder(&self) -> Option<i32> {
        let holds = |(pid, line): (i32, String)| line.contains("hold-namespaces").then_some(pid);
        processes_naming(self.dir()).into_iter().find_map(holds)
    }

    /// Kills the process that keeps the user's namespaces, and waits for its end.
    pub fn kill_holder(&self) {
        let Some(pid) = self.holder() else { return };
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        for _ in 0..1000 {
            if self.holder() != Some(pid) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("{pid} does not end");
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.end(&["rm", "-f", "-a"]);
        }
        self.kill_holder();
        let (mounts, processes) = (mounts_beneath(self.dir()), processes_naming(self.dir()));
        for (pid, _) in &processes {
            let _ = kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL);
        }
        let dir = self.dir.take().unwrap();
        if !std::thread::panicking() {
            assert!(
                mounts.is_empty() && processes.is_empty(),
                "left behind: {mounts:?} {processes:?}"
            );
            dir.close().unwrap();
        }
    }
}
