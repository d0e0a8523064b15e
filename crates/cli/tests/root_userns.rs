//! Overlays mounted without root: by a user in a user namespace of his own, with a single id or with a range of them.

mod common;

/// Ids of a namespace.
#[derive(Clone, Copy, Debug)]
struct Count(u32);

/// Layers, and functions: `ours` and `kernel` mount at `mnt`, `out` unmounts, `fails ERRNO COMMAND…` expects a failure.
const PRELUDE: &str = r#"
mkdir low low/d up work mnt
echo low > low/f; echo deep > low/d/deep; echo gone > low/gone
WRITABLE=lowerdir=low,upperdir=up,workdir=work,userxattr
ours() { "$STRATA" mount --driver fuse -o "$WRITABLE$1" mnt; }
kernel() { "$STRATA" mount --driver kernel -o "$WRITABLE" mnt; }
out() { "$STRATA" umount mnt; }
fails() { want=$1; shift; if said=$("$@" 2>&1); then echo "no failure: $*"; exit 1; fi
  case $said in *"$want"*) ;; *) echo "$*: $said, not $want"; exit 1;; esac; }
is() { test "$1" = "$2" || { echo "$1, not $2"; exit 1; }; }
"#;

/// Has a shell run `script` as root of a new user and mount namespace, in a directory of the user's.
#[track_caller]
fn inside(ids: Count, script: &str) {
    let dir = tempfile::tempdir().unwrap();
    let reachable = common::userns::Reachable::new();
    let strata = reachable.copy(env!("CARGO_BIN_EXE_strata"));
    let script = format!("{PRELUDE}{script}");
    let words = ["sh", "-euc", &script];
    let environment = [("STRATA", strata.to_str().unwrap())];
    let ended = common::userns::run(ids.0, dir.path(), &words, &environment);
    assert_eq!(ended.code, 0, "{ids:?}: {ended:?}");
}

/// What a mount of ours wrote is what the kernel's overlay shows in the same namespace, and the reverse.
#[test]
fn a_user_mounts_and_the_kernel_shows_the_same() {
    let script = r#"
ours ",redirect_dir=follow"
is "$(cat mnt/f)" low
echo more >> mnt/f; echo new > mnt/new; rm mnt/gone; chmod 640 mnt/d/deep; mkdir mnt/made; ln mnt/new mnt/made/link
rm -r mnt/d; mkdir mnt/d
test -c up/gone
fails "not permitted" mknod mnt/null c 1 3
is "$(ls mnt | tr '\n' ' ')" "d f made new "
out
kernel
is "$(ls mnt | tr '\n' ' ')" "d f made new "
is "$(ls -A mnt/d)" ""
is "$(cat mnt/f | tr '\n' ' ')" "low more "
rm mnt/f; echo kernel > mnt/gone
out
ours ""
is "$(ls mnt | tr '\n' ' ')" "d gone made new "
is "$(cat mnt/gone)" kernel
is "$(stat -c %h mnt/new)" 2
out
is "$(cat low/f low/d/deep low/gone | tr '\n' ' ')" "low deep gone "
"#;
    for ids in [Count(1), Count(65_536)] {
        inside(ids, script);
    }
}

/// Directories of lower layers are renamed with a redirect, which the kernel does not follow here.
#[test]
fn a_redirect_is_ours_alone() {
    inside(
        Count(1),
        r#"
ours ""
mv mnt/d mnt/e
is "$(cat mnt/e/deep)" deep
out
ours ""
is "$(cat mnt/e/deep)" deep
fails "No such" ls mnt/d
out
kernel
fails "not permitted" ls mnt/e
out
"#,
    );
}

/// The kernel's overlay is taken where it works.
#[test]
fn the_kernel_serves_a_user_too() {
    inside(
        Count(1),
        r#"
is "$("$STRATA" mount -v -o "$WRITABLE" mnt 2>&1)" "mounted with the kernel's overlay (it takes these layers and options)"
out
"#,
    );
}

/// An owner can be given that the namespace maps, and no other.
#[test]
fn owners_are_those_of_the_namespace() {
    let script = |last: &str| format!("ours ''\n{last}\nout\n");
    inside(Count(1), &script("fails 'Invalid argument' chown 5:5 mnt/f"));
    inside(
        Count(65_536),
        &script("chown 5:6 mnt/f; is \"$(stat -c %u:%g mnt/f up/f | tr '\\n' ' ')\" '5:6 5:6 '"),
    );
}

/// Layers are opened through a read-only mount of the server's own here too: reading leaves no time of access in them.
#[test]
fn reading_leaves_no_trace_below() {
    let script = r#"
touch -a -d @5 low/f low/d low/d/deep
for driver in kernel "ours ''"; do
  eval "$driver"
  is "$(cat mnt/f mnt/d/deep | tr '\n' ' ')" "low deep "
  is "$(ls mnt/d)" deep
  out
  is "$(stat -c %X low/f low/d/deep low/d | tr '\n' ' ')" "5 5 5 "
done
"#;
    for ids in [Count(1), Count(65_536)] {
        inside(ids, script);
    }
}
