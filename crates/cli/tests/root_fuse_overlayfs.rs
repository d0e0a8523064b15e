//! Layers exchanged with `fuse-overlayfs` (Debian's): what it wrote our drop-in shows alike, and the reverse; as root, and
//! in a user namespace.

mod common;

use std::process::Command;

/// Layers, and functions: `theirs` and `ours` mount at `mnt`, `out` unmounts, `look` tells all that is in `mnt`.
const PRELUDE: &str = r#"
mkdir low low/d low/e low/e/f low/r up work mnt
echo low > low/f; echo deep > low/d/deep; echo gone > low/gone; echo x > low/e/f/x; echo ren > low/ren
echo in > low/r/in; ln -s nowhere low/link; chmod 640 low/d/deep; touch -d @1000 low/f low/ren
DIRS=lowerdir=low,upperdir=up,workdir=work
theirs() { fuse-overlayfs -o $DIRS$1 mnt; }
ours() { "$STRATA" fuse-overlayfs -o $DIRS$1 mnt; }
out() { umount mnt; i=0; while [ $i -lt 50 ] && ! rmdir mnt 2>/dev/null; do sleep .02; i=$((i+1)); done; mkdir -p mnt; }
look() { (cd mnt
  find . -mindepth 1 -type d -printf '%P %y %m %U:%G\n' | sort
  find . -mindepth 1 ! -type d -printf '%P %y %m %U:%G %n %s %l\n' | sort
  find . -mindepth 1 -type f ! -newermt 2001-01-01 -printf '%P %T@\n' | sort
  find . -type f | sort | xargs cat
  find . -type f | sort | xargs getfattr -d -m user 2>&1); }
same() { look > seen; diff -u $1 seen; }
"#;

/// What is done to the view by either.
const CHANGES: &str = r#"
rm mnt/gone; rm -r mnt/d; mkdir mnt/d; echo anew > mnt/d/anew
echo more >> mnt/f; chmod 4711 mnt/f; touch -d @2000 mnt/f
mv mnt/ren mnt/moved; mv mnt/e mnt/elsewhere
echo new > mnt/new; ln mnt/new mnt/d/again; ln -s target mnt/sym; mkfifo mnt/fifo; setfattr -n user.mine -v 1 mnt/new
rm -r mnt/r; echo file > mnt/r
"#;

const LATER: &str = r#"
rm mnt/sym; echo back > mnt/gone; rm mnt/d/again; rmdir mnt/elsewhere/f 2>/dev/null || rm -r mnt/elsewhere/f
rm mnt/r; mkdir mnt/r; echo y > mnt/r/y; mv mnt/d mnt/dd; truncate -s 2 mnt/new; rm mnt/link
"#;

fn script(owners: &str) -> String {
    format!(
        "{PRELUDE}theirs ''\n{CHANGES}{owners}look > one; out\nours ''\nsame one\n{LATER}look > two; out\n\
         theirs ''\nsame two\nout\nours ''\nsame two\nout\ntest \"$(cat low/gone low/f low/d/deep)\" = \"$(printf 'gone\\nlow\\ndeep')\"\n"
    )
}

const OWNERS: &str = "chown 5:6 mnt/moved; chown -h 7:8 mnt/sym mnt/d\n";

#[test]
fn as_root() {
    let dir = tempfile::tempdir().unwrap();
    let ended = Command::new("unshare")
        .args(["--mount", "sh", "-euc", &script(OWNERS)])
        .env("STRATA", env!("CARGO_BIN_EXE_strata"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let ended = testkit::Ended::from(ended);
    assert_eq!(ended.code, 0, "{ended:#?}");
}

#[test]
fn in_a_user_namespace() {
    for (ids, owners) in [(1, ""), (65_536, OWNERS)] {
        let dir = tempfile::tempdir().unwrap();
        let reachable = common::userns::Reachable::new();
        let strata = reachable.copy(env!("CARGO_BIN_EXE_strata"));
        let environment = [("STRATA", strata.to_str().unwrap())];
        let script = script(owners);
        let ended = common::userns::run(ids, dir.path(), &["sh", "-euc", &script], &environment);
        assert_eq!(ended.code, 0, "{ids} ids: {ended:#?}");
    }
}

/// Owners and modes that either keeps in an attribute.
#[test]
fn owners_in_an_attribute() {
    let script = format!(
        "{PRELUDE}
rm low/link; chmod 755 low/f
theirs ,xattr_permissions=2
echo new > mnt/new; chmod 640 mnt/new; chown 5:6 mnt/new; mkdir mnt/dir; chmod 2750 mnt/dir; echo more >> mnt/f
look > one; out
ours ,xattr_permissions=2
same one
echo ours > mnt/ours; chmod 4711 mnt/ours; chown 7:8 mnt/dir; chmod 600 mnt/new; chown 9:9 mnt/f; echo x >> mnt/d/deep
look > two; out
theirs ,xattr_permissions=2
same two
out
"
    );
    let dir = tempfile::tempdir().unwrap();
    let ended = Command::new("unshare")
        .args(["--mount", "sh", "-euc", &script])
        .env("STRATA", env!("CARGO_BIN_EXE_strata"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let ended = testkit::Ended::from(ended);
    assert_eq!(ended.code, 0, "{ended:#?}");
}
