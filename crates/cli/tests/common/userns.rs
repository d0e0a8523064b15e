//! Programs in a user namespace of an unprivileged user.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Ended;

/// The user outside; root inside.
pub const USER: u32 = 100_000;

/// Copies of programs where any user reaches them, which is not so of what was built in somebody's home.
pub struct Reachable {
    dir: tempfile::TempDir,
}

impl Reachable {
    pub fn new() -> Reachable {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Reachable { dir }
    }

    /// A copy of this one.
    pub fn copy(&self, program: impl AsRef<Path>) -> PathBuf {
        let program = program.as_ref();
        let copy = self.dir.path().join(program.file_name().unwrap());
        std::fs::copy(program, &copy).unwrap();
        copy
    }
}

/// Runs `words` as root of a new user namespace, which has `count` ids from [`USER`] on, and of a new mount namespace,
/// in the directory `dir`, which is given to the user.
#[track_caller]
pub fn run(count: u32, dir: &Path, words: &[&str], environment: &[(&str, &str)]) -> Ended {
    assert!(
        rustix::process::geteuid().is_root(),
        "ids are mapped here: run the tests as root"
    );
    chown(dir, Some(USER), Some(USER)).unwrap();
    let id = USER.to_string();
    // What the shell starts has root's capabilities in the namespace: the shell was started before its id was mapped.
    let mut child = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
        .args(["unshare", "--user", "--mount", "sh", "-c"])
        .args(["read go; exec \"$@\" < /dev/null", "sh"])
        .args(words)
        .envs(environment.iter().copied())
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("setpriv and unshare of util-linux");
    let proc = format!("/proc/{}", child.id());
    let ours = std::fs::read_link("/proc/self/ns/user").unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::fs::read_link(format!("{proc}/ns/user")).unwrap() == ours {
        assert!(
            Instant::now() < deadline,
            "a user may have a namespace of his own"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    for map in ["uid_map", "gid_map"] {
        std::fs::write(format!("{proc}/{map}"), format!("0 {USER} {count}\n")).unwrap();
    }
    let _ = child.stdin.take().unwrap().write_all(b"go\n");
    child.wait_with_output().unwrap().into()
}
