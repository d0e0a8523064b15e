//! Reading, writing, mapping.

use std::os::fd::AsFd;

use rustix::fs::{OFlags, fstat, ftruncate};
use rustix::io::{pread, pwrite};
use sys::map::{Map, Sharing};

use super::{Drivers, Scene, exceptions};
use crate::files as f;
use crate::random::Random;

/// Bytes that tell every place from every other.
fn pattern(length: usize) -> Vec<u8> {
    let mut random = Random::new(length as u64);
    (0..length.div_ceil(8))
        .flat_map(|_| random.number().to_le_bytes())
        .take(length)
        .collect()
}

/// Reads end at the end of the file, wherever they begin.
pub fn reading_ends_at_the_end(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "0123456789").file("empty", ""));
    let file = f::open_read(s.at("f")).unwrap();
    let mut buffer = [0; 8];
    assert_eq!(pread(&file, &mut buffer[..], 6), Ok(4));
    assert_eq!(&buffer[..4], b"6789");
    assert_eq!(pread(&file, &mut buffer[..], 10), Ok(0));
    assert_eq!(pread(&file, &mut buffer[..], 1 << 40), Ok(0));
    assert_eq!(
        pread(f::open_read(s.at("empty")).unwrap(), &mut buffer[..], 0),
        Ok(0)
    );
    let file = f::open_write(s.at("f")).unwrap();
    assert_eq!(pwrite(&file, b"xy", 10), Ok(2));
    assert_eq!(pread(&file, &mut buffer[..], 8), Ok(4));
    assert_eq!(&buffer[..4], b"89xy");
}

/// A write beyond the end leaves zeros between.
pub fn writing_beyond_the_end(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", "abc"));
    let file = f::open_write(s.at("f")).unwrap();
    f::write_all(&file, b"end", 10_000).unwrap();
    let content = f::read(s.at("f")).unwrap();
    assert_eq!(content.len(), 10_003);
    assert_eq!(&content[..3], b"abc");
    assert!(content[3..10_000].iter().all(|byte| *byte == 0));
    drop(file);
    s.same_after_remounts();
}

/// A file of some megabytes arrives whole when it is copied up, and a write changes what it says it does.
pub fn a_large_file_is_copied_up_whole(d: &Drivers) {
    let mut content = pattern(5_000_001);
    let s = Scene::mounted(d, |t| t.file("f", &content));
    assert!(f::read(s.at("f")).unwrap() == content);
    let file = f::open_write(s.at("f")).unwrap();
    f::write_all(&file, b"in the midst", 3_000_000).unwrap();
    content[3_000_000..3_000_012].copy_from_slice(b"in the midst");
    assert!(f::read(s.at("f")).unwrap() == content);
    assert!(f::read(s.upper("f")).unwrap() == content);
}

/// A descriptor that was opened for reading before the copy-up sees what is written after it, and the new size.
pub fn an_old_descriptor_sees_later_writes(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "before"));
    let old = f::open_read(s.at("f")).unwrap();
    assert_eq!(f::read_all(&old).unwrap(), b"before");
    f::append(s.at("f"), " and after").unwrap();
    assert_eq!(f::read_all(&old).unwrap(), b"before and after");
    assert_eq!(fstat(&old).unwrap().st_size, 16);
    f::truncate(s.at("f"), 3).unwrap();
    assert_eq!(f::read_all(&old).unwrap(), b"bef");
    f::chmod(s.at("f"), 0o600).unwrap();
    assert_eq!(fstat(&old).unwrap().st_mode & 0o777, 0o600);
}

/// Two descriptors of one file see each other's writes at once.
pub fn two_descriptors_see_each_other(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![b'.'; 10_000]));
    let one = f::open_write(s.at("f")).unwrap();
    let two = f::open_write(s.at("f")).unwrap();
    for round in 0..50u64 {
        let text = format!("round {round:4}");
        f::write_all(&one, text.as_bytes(), round * 100).unwrap();
        let mut seen = [0; 10];
        assert_eq!(pread(&two, &mut seen[..], round * 100), Ok(10));
        assert_eq!(seen, text.as_bytes());
    }
}

/// Writes of any size at any place add up to what they should.
pub fn odd_sizes_and_places(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", pattern(70_000)));
    let mut model = pattern(70_000);
    let file = f::open_write(s.at("f")).unwrap();
    let mut random = Random::new(7);
    for _ in 0..200 {
        let (at, length) = (random.below(150_000) as usize, 1 + random.below(9000) as usize);
        let bytes = pattern(length);
        f::write_all(&file, &bytes, at as u64).unwrap();
        model.resize(model.len().max(at + length), 0);
        model[at..at + length].copy_from_slice(&bytes);
    }
    assert!(f::read(s.at("f")).unwrap() == model);
    drop(file);
    s.remount_by_other();
    assert!(f::read(s.at("f")).unwrap() == model);
}

/// A shared map writes to the file; other descriptors and other maps see it, before it is synced.
pub fn a_shared_map_writes_to_the_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![b'.'; 9000]));
    let file = f::open_write(s.at("f")).unwrap();
    let mut map = Map::new(file.as_fd(), 9000, Sharing::Shared, true).unwrap();
    let other = Map::new(file.as_fd(), 9000, Sharing::Shared, false).unwrap();
    assert_eq!(map.read(0, 3), b"...");
    map.write(8000, b"mapped");
    assert_eq!(other.read(8000, 6), b"mapped");
    assert_eq!(&f::read(s.at("f")).unwrap()[8000..8006], b"mapped");
    f::write_all(&file, b"written", 100).unwrap();
    assert_eq!(map.read(100, 7), b"written");
    map.sync().unwrap();
    assert_eq!(&f::read(s.upper("f")).unwrap()[8000..8006], b"mapped");
}

/// A write through a shared map sets the modification time, also of a file whose times were asked for before.
pub fn a_shared_map_sets_the_time(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("d", 0o755));
    f::write(s.at("f"), vec![b'.'; 5000]).unwrap();
    f::set_times(s.at("f"), (100, 0), (200, 0)).unwrap();
    assert_eq!(f::lstat(s.at("f")).unwrap().st_mtime, 200);
    let file = f::open_write(s.at("f")).unwrap();
    let mut map = Map::new(file.as_fd(), 5000, Sharing::Shared, true).unwrap();
    map.write(4000, b"new");
    map.sync().unwrap();
    drop((map, file));
    assert!(f::lstat(s.at("f")).unwrap().st_mtime > 1_000_000_000);
}

/// What a shared map wrote is in the file after the map, the descriptor and the mount are gone.
pub fn a_shared_map_outlives_its_descriptor(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", vec![b'.'; 5000]));
    let file = f::open_write(s.at("f")).unwrap();
    let mut map = Map::new(file.as_fd(), 5000, Sharing::Shared, true).unwrap();
    drop(file);
    map.write(4990, b"kept");
    drop(map);
    assert_eq!(&f::read(s.at("f")).unwrap()[4990..4994], b"kept");
    s.remount_by_other();
    assert_eq!(&f::read(s.at("f")).unwrap()[4990..4994], b"kept");
}

/// A private map keeps its writes to itself.
pub fn a_private_map_changes_nothing(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![b'.'; 5000]));
    let reader = f::open_read(s.at("f")).unwrap();
    let mut map = Map::new(reader.as_fd(), 5000, Sharing::Private, true).unwrap();
    map.write(10, b"private");
    assert_eq!(map.read(10, 7), b"private");
    assert!(f::read(s.at("f")).unwrap().iter().all(|byte| *byte == b'.'));
    assert!(!f::exists(s.upper("f")));
}

/// A shared map of a descriptor that was opened for reading can never be written.
pub fn a_readers_map_is_not_writable(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![b'.'; 5000]));
    let reader = f::open_read(s.at("f")).unwrap();
    let errno = |error: std::io::Error| error.raw_os_error();
    let refused = Map::new(reader.as_fd(), 5000, Sharing::Shared, true);
    assert_eq!(
        refused.map_err(errno).err().flatten(),
        Some(rustix::io::Errno::ACCESS.raw_os_error())
    );
    let mut map = Map::new(reader.as_fd(), 5000, Sharing::Shared, false).unwrap();
    let refused = map.make_writable();
    assert_eq!(
        refused.map_err(errno).err().flatten(),
        Some(rustix::io::Errno::ACCESS.raw_os_error())
    );
}

/// A shared map made before the copy-up: on the kernel's overlay it goes on showing the lower file, and so does a new
/// one of the descriptor that was opened then.
pub fn a_shared_map_made_before_the_copy_up(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![b'.'; 5000]));
    let reader = f::open_read(s.at("f")).unwrap();
    let map = Map::new(reader.as_fd(), 5000, Sharing::Shared, false).unwrap();
    assert_eq!(map.read(0, 3), b"...");
    f::write_all(f::open_write(s.at("f")).unwrap(), b"new", 0).unwrap();
    assert_eq!(&f::read_all(&reader).unwrap()[..3], b"new");
    let same_descriptor = Map::new(reader.as_fd(), 5000, Sharing::Shared, false).unwrap();
    let expected = if exceptions::MAP_BEFORE_COPY_UP.applies(&s) {
        b"new"
    } else {
        b"..."
    };
    assert_eq!(map.read(0, 3), expected);
    assert_eq!(same_descriptor.read(0, 3), expected);
    let fresh = f::open_read(s.at("f")).unwrap();
    let fresh = Map::new(fresh.as_fd(), 5000, Sharing::Shared, false).unwrap();
    assert_eq!(fresh.read(0, 3), b"new");
}

/// A map keeps an unlinked file, of either layer, and a map of one that was made anew shows the new one.
pub fn a_map_keeps_an_unlinked_file(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("lower", vec![b'l'; 5000]));
    f::write(s.at("upper"), vec![b'u'; 5000]).unwrap();
    for (name, byte) in [("lower", b'l'), ("upper", b'u')] {
        let file = f::open_read(s.at(name)).unwrap();
        let map = Map::new(file.as_fd(), 5000, Sharing::Shared, false).unwrap();
        drop(file);
        f::unlink(s.at(name)).unwrap();
        f::write(s.at(name), vec![b'n'; 5000]).unwrap();
        assert_eq!(map.read(4096, 2), [byte; 2]);
        let file = f::open_read(s.at(name)).unwrap();
        assert_eq!(
            Map::new(file.as_fd(), 5000, Sharing::Shared, false)
                .unwrap()
                .read(4096, 2),
            b"nn"
        );
    }
}

/// Growing and shrinking a mapped file shows in the map.
pub fn a_map_follows_the_size(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", vec![b'.'; 4096]));
    let file = f::open_write(s.at("f")).unwrap();
    let mut map = Map::new(file.as_fd(), 8192, Sharing::Shared, true).unwrap();
    ftruncate(&file, 8192).unwrap();
    assert_eq!(map.read(4094, 4), [b'.', b'.', 0, 0]);
    map.write(8000, b"grown");
    assert_eq!(&f::read(s.at("f")).unwrap()[8000..8005], b"grown");
    ftruncate(&file, 100).unwrap();
    ftruncate(&file, 4096).unwrap();
    assert_eq!(map.read(98, 4), [b'.', b'.', 0, 0]);
}

/// `sendfile` reads and writes as anybody does.
pub fn sendfile_between_layers(d: &Drivers) {
    let content = pattern(200_000);
    let s = Scene::mounted(d, |t| t.file("from", &content));
    let (from, to) = (
        f::open_read(s.at("from")).unwrap(),
        f::open(s.at("to"), OFlags::RDWR | OFlags::CREATE, 0o644).unwrap(),
    );
    let mut left = content.len();
    while left > 0 {
        left -= rustix::fs::sendfile(&to, &from, None, left).unwrap();
    }
    assert!(f::read(s.at("to")).unwrap() == content);
}

/// Readers of a lower file see either the old or the new, never a mixture of sizes, while another copies it up.
pub fn reading_during_a_copy_up(d: &Drivers) {
    let content = pattern(3_000_000);
    let s = Scene::mounted(d, |t| t.file("f", &content));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..10 {
                    assert!(f::read(s.at("f")).unwrap() == content);
                }
            });
        }
        scope.spawn(|| f::chmod(s.at("f"), 0o600).unwrap());
        scope.spawn(|| drop(f::open_write(s.at("f")).unwrap()));
    });
    assert!(f::read(s.at("f")).unwrap() == content);
}

/// A write sets the modification and change times; a read leaves them.
pub fn writing_sets_the_times(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "x").times("f", 100, 200));
    f::read(s.at("f")).unwrap();
    assert_eq!(f::modified(&f::lstat(s.at("f")).unwrap()), (200, 222));
    f::append(s.at("f"), "y").unwrap();
    let stat = f::lstat(s.at("f")).unwrap();
    assert!(stat.st_mtime > 1_000_000_000 && stat.st_ctime > 1_000_000_000);
    f::set_times(s.at("f"), (100, 0), (200, 0)).unwrap();
    f::truncate(s.at("f"), 1).unwrap();
    assert!(f::lstat(s.at("f")).unwrap().st_mtime > 1_000_000_000);
}
