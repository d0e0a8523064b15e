//! Sizes, holes, and copies that the kernel makes.

use std::os::fd::OwnedFd;

use rustix::fs::{
    FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, fstat, ftruncate, ioctl_ficlone, seek,
};
use rustix::io::Errno;

use super::{Drivers, Scene, exceptions};
use crate::disk::Disk;
use crate::files::{self as f, refused};

const MEGABYTE: u64 = 1 << 20;

fn blocks(file: &OwnedFd) -> u64 {
    fstat(file).unwrap().st_blocks as u64
}

/// `truncate` shortens and lengthens, of a lower file its copy; what is gained is zeros.
pub fn truncate_both_ways(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("down", "0123456789")
            .file("up", "0123456789")
            .file("zero", "text")
    });
    f::truncate(s.at("down"), 4).unwrap();
    f::truncate(s.at("up"), 100_000).unwrap();
    f::truncate(s.at("zero"), 0).unwrap();
    assert_eq!(f::read(s.at("down")).unwrap(), b"0123");
    let content = f::read(s.at("up")).unwrap();
    assert_eq!((content.len(), &content[..10]), (100_000, &b"0123456789"[..]));
    assert!(content[10..].iter().all(|byte| *byte == 0));
    assert_eq!(f::lstat(s.at("zero")).unwrap().st_size, 0);
    s.same_after_remounts();
    f::truncate(s.at("down"), 8).unwrap();
    assert_eq!(f::read(s.at("down")).unwrap(), b"0123\0\0\0\0");
}

/// Lengths that no file can have, and things that are no files.
pub fn truncate_refuses(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "x").dir("d", 0o755));
    refused(f::truncate(s.at("d"), 0), Errno::ISDIR);
    refused(f::truncate(s.at("n"), 0), Errno::NOENT);
    let file = f::open_write(s.at("f")).unwrap();
    refused(ftruncate(&file, u64::MAX), Errno::INVAL);
    assert_eq!(f::read(s.at("f")).unwrap(), b"x");
}

/// `fallocate` reserves blocks and lengthens the file, or with `KEEP_SIZE` does not.
pub fn fallocate_reserves(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "lower"));
    let file = f::open_write(s.at("f")).unwrap();
    fallocate(&file, FallocateFlags::empty(), 0, MEGABYTE).unwrap();
    assert_eq!(fstat(&file).unwrap().st_size as u64, MEGABYTE);
    assert!(blocks(&file) >= MEGABYTE / 512);
    fallocate(&file, FallocateFlags::KEEP_SIZE, MEGABYTE, MEGABYTE).unwrap();
    assert_eq!(fstat(&file).unwrap().st_size as u64, MEGABYTE);
    let content = f::read(s.at("f")).unwrap();
    assert_eq!(&content[..5], b"lower");
    assert!(content[5..].iter().all(|byte| *byte == 0));
}

/// `PUNCH_HOLE` and `ZERO_RANGE` make zeros; punching frees the blocks.
pub fn fallocate_makes_zeros(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![1; 1 << 20]));
    let file = f::open_write(s.at("f")).unwrap();
    rustix::fs::fsync(&file).unwrap();
    let before = blocks(&file);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 65_536, 262_144).unwrap();
    fallocate(&file, FallocateFlags::ZERO_RANGE, 524_288, 4096).unwrap();
    assert!(blocks(&file) < before);
    let content = f::read(s.at("f")).unwrap();
    assert_eq!(content.len(), 1 << 20);
    for (place, byte) in content.iter().enumerate() {
        let zero = (65_536..327_680).contains(&place) || (524_288..528_384).contains(&place);
        assert_eq!(*byte, u8::from(!zero), "at {place}");
    }
}

/// `COLLAPSE_RANGE` and `INSERT_RANGE` move what is behind, where the upper's file system can (ext4 and XFS).
pub fn fallocate_moves(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("f", [[1; 65_536], [2; 65_536], [3; 65_536]].concat())
    });
    let file = f::open_write(s.at("f")).unwrap();
    let collapsed = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 65_536, 65_536);
    if exceptions::RANGES_ARE_NOT_MOVED.applies(&s) {
        refused(collapsed, Errno::OPNOTSUPP);
        refused(
            fallocate(&file, FallocateFlags::INSERT_RANGE, 0, 65_536),
            Errno::OPNOTSUPP,
        );
        return;
    }
    collapsed.unwrap();
    assert!(f::read(s.at("f")).unwrap() == [[1; 65_536], [3; 65_536]].concat());
    fallocate(&file, FallocateFlags::INSERT_RANGE, 0, 65_536).unwrap();
    assert!(f::read(s.at("f")).unwrap() == [[0; 65_536], [1; 65_536], [3; 65_536]].concat());
}

/// What `fallocate` refuses.
pub fn fallocate_refuses(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "x").dir("d", 0o755));
    let reader = f::open_read(s.at("f")).unwrap();
    refused(fallocate(&reader, FallocateFlags::empty(), 0, 10), Errno::BADF);
    let writer = f::open_write(s.at("f")).unwrap();
    refused(fallocate(&writer, FallocateFlags::empty(), 0, 0), Errno::INVAL);
    refused(
        fallocate(&writer, FallocateFlags::PUNCH_HOLE, 0, 10),
        Errno::OPNOTSUPP,
    );
    // Ours because FUSE has no such request, the kernel's because ext4 shares no blocks.
    refused(
        fallocate(&writer, FallocateFlags::UNSHARE_RANGE, 0, 1),
        Errno::OPNOTSUPP,
    );
    let dir = f::open_read(s.at("d")).unwrap();
    refused(fallocate(&dir, FallocateFlags::empty(), 0, 10), Errno::BADF);
}

/// `copy_file_range` between files of any layer, at any place, to the end of the source and no further.
pub fn copies_of_ranges(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("from", "0123456789").file("to", "abcdefghij"));
    let from = f::open_read(s.at("from")).unwrap();
    let to = f::open_write(s.at("to")).unwrap();
    let (mut at, mut into) = (2, 5);
    assert_eq!(
        copy_file_range(&from, Some(&mut at), &to, Some(&mut into), 4),
        Ok(4)
    );
    assert_eq!((at, into), (6, 9));
    assert_eq!(f::read(s.at("to")).unwrap(), b"abcde2345j");
    assert_eq!(
        copy_file_range(&from, Some(&mut 8), &to, Some(&mut 20), 100),
        Ok(2)
    );
    assert_eq!(
        copy_file_range(&from, Some(&mut 10), &to, Some(&mut 0), 100),
        Ok(0)
    );
    assert_eq!(f::read(s.at("to")).unwrap(), b"abcde2345j\0\0\0\0\0\0\0\0\0\089");
    let new = f::open(s.at("new"), OFlags::RDWR | OFlags::CREATE, 0o644).unwrap();
    assert_eq!(copy_file_range(&to, None, &new, None, 5), Ok(5));
    assert_eq!(f::read(s.at("new")).unwrap(), b"abcde");
    assert_eq!(f::read(s.at("from")).unwrap(), b"0123456789");
}

/// Where the file system can, a copy-up shares blocks, and so does `FICLONE` within the mount.
pub fn reflinks(d: &Drivers) {
    let disk = Disk::xfs();
    let content = vec![5; 1 << 20];
    let s = Scene::new(d)
        .lower_in(&disk.path(), |t| t.file("f", &content))
        .writable_in(&disk.path())
        .mount();
    f::chmod(s.at("f"), 0o600).unwrap();
    assert!(f::read(s.at("f")).unwrap() == content);
    let used = |path: &std::path::Path| {
        let out = std::process::Command::new("filefrag")
            .arg("-v")
            .arg(path)
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    assert!(used(&s.upper("f")).contains("shared"), "{}", used(&s.upper("f")));
    let from = f::open_read(s.at("f")).unwrap();
    let to = f::open(s.at("clone"), OFlags::RDWR | OFlags::CREATE, 0o644).unwrap();
    let cloned = ioctl_ficlone(&to, &from);
    if exceptions::FICLONE_IS_NOT_CARRIED.applies(&s) {
        refused(cloned, Errno::OPNOTSUPP);
        copy_file_range(&from, None, &to, None, 1 << 20).unwrap();
    } else {
        cloned.unwrap();
    }
    assert!(f::read(s.at("clone")).unwrap() == content);
}

/// `SEEK_HOLE` and `SEEK_DATA` tell where data is, of lower and of upper files. A copy-up may fill what is left of a
/// megabyte with zeros.
pub fn where_data_is(d: &Drivers) {
    let s = Scene::mounted(d, |t| sparse(t, "f"));
    for slack in [0, MEGABYTE] {
        let file = f::open_read(s.at("f")).unwrap();
        assert_eq!(seek(&file, SeekFrom::Data(0)), Ok(4 * MEGABYTE));
        let hole = seek(&file, SeekFrom::Hole(4 * MEGABYTE)).unwrap();
        assert!(
            (4 * MEGABYTE + 4096..=4 * MEGABYTE + 4096 + slack).contains(&hole),
            "{hole}"
        );
        assert_eq!(seek(&file, SeekFrom::Data(hole)), Ok(12 * MEGABYTE));
        assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(0));
        refused(seek(&file, SeekFrom::Data(14 * MEGABYTE)), Errno::NXIO);
        refused(seek(&file, SeekFrom::Data(100 * MEGABYTE)), Errno::NXIO);
        assert_eq!(seek(&file, SeekFrom::End(0)), Ok(16 * MEGABYTE));
        f::chmod(s.at("f"), 0o600).unwrap();
    }
}

/// A hole, a block of data, a hole, a block of data, a hole.
fn sparse(t: super::Tree, path: &str) -> super::Tree {
    let t = t.file(path, "");
    let file = f::open_write(t.at(path)).unwrap();
    f::write_all(&file, &[1; 4096], 4 * MEGABYTE).unwrap();
    f::write_all(&file, &[2; 4096], 12 * MEGABYTE).unwrap();
    ftruncate(&file, 16 * MEGABYTE).unwrap();
    drop(file);
    t
}

/// A copy-up keeps holes, also those at the ends, and a file that is nothing but a hole.
pub fn holes_survive_the_copy_up(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        let t = sparse(t, "f").file("empty", "");
        f::truncate(t.at("empty"), 64 * MEGABYTE).unwrap();
        t
    });
    let content = f::read(s.at("f")).unwrap();
    f::chmod(s.at("f"), 0o600).unwrap();
    f::chmod(s.at("empty"), 0o600).unwrap();
    assert!(f::read(s.upper("f")).unwrap() == content);
    let used = f::lstat(s.upper("f")).unwrap().st_blocks as u64 * 512;
    assert!(used <= 2 * MEGABYTE + 65_536, "{used}");
    assert!(f::lstat(s.upper("empty")).unwrap().st_blocks <= 8);
    assert_eq!(f::lstat(s.at("empty")).unwrap().st_size as u64, 64 * MEGABYTE);
}
