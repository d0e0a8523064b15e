//! `strata mount` with all its directories on an overlay, where the kernel's overlay can have no upper directory: on the
//! kernel's, and on our own.

use std::process::Command;

use testkit::Ended;

/// What users do, in a mount namespace that takes everything with it.
const SCRIPT: &str = r#"
mkdir -p base/low/dir base/up base/work ku kw outer mnt
echo low > base/low/file; echo in > base/low/dir/in; cp /bin/busybox base/low/busybox
"$STRATA" mount --driver "$OUTER" -o lowerdir=base,upperdir=ku,workdir=kw outer
ours() { "$STRATA" mount "$@" -v -o lowerdir=outer/low,upperdir=outer/up,workdir=outer/work mnt; }
"$STRATA" mount --driver kernel -o lowerdir=outer/low,upperdir=outer/up,workdir=outer/work mnt 2>/dev/null && exit 1
ours --driver fuse 2>/dev/null

exec 3< mnt/file
echo more >> mnt/file
cat <&3; exec 3<&-
rm mnt/dir/in; ls mnt/dir
mv mnt/dir mnt/moved; mkdir mnt/dir; echo x > mnt/dir/new
ln mnt/file mnt/other; stat -c %h mnt/file; rm mnt/file
mnt/busybox echo from a layer
cp mnt/busybox mnt/dir/busybox; mnt/dir/busybox echo from the upper directory
setfattr -n user.name -v value mnt/other; setfattr -n trusted.name -v value mnt/other
chown 5:6 mnt/other; chmod 4711 mnt/other
look() { (cd mnt; find . | sort; cat other; stat -c '%u %g %a' other
          getfattr -n user.name --only-values other; getfattr -n trusted.name --only-values other; echo); }
look > before
"$STRATA" umount mnt
ours 2>&1 | grep -c FUSE
look > after; cmp before after; cat after
"$STRATA" umount mnt
cat outer/low/file outer/low/dir/in base/low/file base/low/dir/in
"$STRATA" umount outer
"#;

const SAID: &str = "\
low
more
2
from a layer
from the upper directory
1
.
./busybox
./dir
./dir/busybox
./dir/new
./moved
./other
low
more
5 6 4711
valuevalue
low
in
low
in
";

fn on(outer: &str) {
    let dir = tempfile::tempdir().unwrap();
    let ended: Ended = Command::new("unshare")
        .args(["--mount", "sh", "-e", "-c", SCRIPT])
        .env("STRATA", env!("CARGO_BIN_EXE_strata"))
        .env("OUTER", outer)
        .current_dir(dir.path())
        .output()
        .unwrap()
        .into();
    assert!(ended.code == 0 && ended.out == SAID, "{ended:#?}");
}

#[test]
fn on_the_kernels_overlay() {
    on("kernel");
}

#[test]
fn on_our_own() {
    on("fuse");
}
