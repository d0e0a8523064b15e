//! Mode, owner, times, and what `statx` tells.

use rustix::fs::{AtFlags, CWD, StatxFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, statx};
use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

/// `chmod` of a lower file changes its copy alone, of a directory the merged one's.
pub fn chmod(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("f", "text")
            .dir("d", 0o755)
            .file("d/x", "")
            .link_to("l", "f")
    });
    f::chmod(s.at("l"), 0o4751).unwrap();
    f::chmod(s.at("d"), 0o2700).unwrap();
    assert_eq!((f::mode(s.at("f")), f::mode(s.at("d"))), (Ok(0o4751), Ok(0o2700)));
    assert_eq!(f::read(s.at("f")).unwrap(), b"text");
    assert_eq!(f::names(s.at("d")).unwrap(), ["x"]);
    for mode in [0, 0o7777, 0o1000, 0o644] {
        f::chmod(s.at("f"), mode).unwrap();
        assert_eq!(f::mode(s.at("f")), Ok(mode));
    }
    s.same_after_remounts();
}

/// `chown`, of files, directories and links themselves; what is not given stays.
pub fn chown(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", "").dir("d", 0o755).link_to("l", "f"));
    let owner = |name: &str| {
        f::lstat(s.at(name))
            .map(|stat| (stat.st_uid, stat.st_gid))
            .unwrap()
    };
    for (number, name) in ["f", "d", "l"].into_iter().enumerate() {
        f::chown(s.at(name), Some(10 + number as u32), None).unwrap();
        f::chown(s.at(name), None, Some(20)).unwrap();
        assert_eq!(owner(name), (10 + number as u32, 20));
    }
    f::chown(s.at("f"), Some(4_000_000_000), Some(65_534)).unwrap();
    assert_eq!(owner("f"), (4_000_000_000, 65_534));
    s.same_after_remounts();
}

/// Times are set to the nanosecond, left, or taken from the clock.
pub fn times(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("f", "")
            .times("f", 100, 200)
            .dir("d", 0o755)
            .link_to("l", "f")
    });
    let set = |name: &str, access: i64, modification: i64| {
        let time = |tv_nsec| Timespec { tv_sec: 7, tv_nsec };
        let times = Timestamps {
            last_access: time(access),
            last_modification: time(modification),
        };
        rustix::fs::utimensat(CWD, s.at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        f::lstat(s.at(name)).unwrap()
    };
    let stat = set("f", UTIME_OMIT, UTIME_OMIT);
    assert_eq!((f::accessed(&stat), f::modified(&stat)), ((100, 111), (200, 222)));
    let stat = set("f", UTIME_OMIT, 999_999_999);
    assert_eq!(
        (f::accessed(&stat), f::modified(&stat)),
        ((100, 111), (7, 999_999_999))
    );
    let stat = set("f", 5, UTIME_OMIT);
    assert_eq!(
        (f::accessed(&stat), f::modified(&stat)),
        ((7, 5), (7, 999_999_999))
    );
    let stat = set("f", UTIME_OMIT, UTIME_NOW);
    assert!(stat.st_atime == 7 && stat.st_mtime > 1_000_000_000);
    for name in ["d", "l"] {
        let stat = set(name, 1, 2);
        assert_eq!(
            (f::accessed(&stat), f::modified(&stat)),
            ((7, 1), (7, 2)),
            "{name}"
        );
    }
    for seconds in [-1, 0, 4_000_000_000] {
        f::set_times(s.at("f"), (seconds, 3), (seconds, 4)).unwrap();
        let stat = f::lstat(s.at("f")).unwrap();
        assert_eq!(
            (f::accessed(&stat), f::modified(&stat)),
            ((seconds, 3), (seconds, 4))
        );
    }
    s.same_after_remounts();
}

/// Changing an attribute sets the change time and leaves the modification time.
pub fn the_change_time(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").times("f", 100, 200));
    let acts: [&dyn Fn(); 4] = [
        &|| f::chmod(s.at("f"), 0o600).unwrap(),
        &|| f::chown(s.at("f"), Some(1), None).unwrap(),
        &|| f::set_xattr(s.at("f"), "user.a", "1").unwrap(),
        &|| f::link(s.at("f"), s.at("g")).unwrap(),
    ];
    let mut last = f::changed(&f::lstat(s.at("f")).unwrap());
    for (number, act) in acts.iter().enumerate() {
        // Coarser than the clock of any file system that is tested on.
        std::thread::sleep(std::time::Duration::from_millis(15));
        act();
        let stat = f::lstat(s.at("f")).unwrap();
        assert!(f::changed(&stat) > last, "act {number}");
        assert_eq!(f::modified(&stat), (200, 222), "act {number}");
        last = f::changed(&stat);
    }
}

/// A copy-up leaves the times of the directory that the file is in, but for its change time; what is seen then of it, and of
/// directories that were copied up with it, is what a later mount shows.
pub fn directories_after_a_copy_up(d: &Drivers) {
    let mut s = Scene::mounted(d, |mut t| {
        t = t.dir("d", 0o755).dir("d/e", 0o755).file("d/e/f", "");
        // More than one block of names, of which the upper directory has few.
        for number in 0..100 {
            t = t.file(&format!("d/{}{number}", "name".repeat(20)), "");
        }
        t.times("d", 100, 200).times("d/e", 100, 200)
    });
    let look = |s: &Scene| {
        ["d", "d/e"].map(|name| {
            let stat = f::lstat(s.at(name)).unwrap();
            (f::changed(&stat), f::modified(&stat), stat.st_size)
        })
    };
    let mut before = look(&s);
    f::append(s.at("d/e/f"), "+").unwrap();
    f::mkdir(s.at("d/made"), 0o755).unwrap();
    for act in ["chmod", "append"] {
        std::thread::sleep(std::time::Duration::from_millis(15));
        match act {
            "chmod" => f::chmod(s.at(format!("d/{}1", "name".repeat(20))), 0o600).unwrap(),
            _ => f::append(s.at(format!("d/{}2", "name".repeat(20))), "+").unwrap(),
        }
        let seen = look(&s);
        assert!(seen[0].0 > before[0].0, "{act}: {before:?}, {seen:?}");
        s.remount();
        assert_eq!(seen, look(&s), "{act}");
        before = seen;
    }
    assert_eq!(before[1].1, (200, 222));
}

/// `statx` tells a birth time, of lower and of upper files, and it stays over a remount.
pub fn birth_times(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("lower", "").dir("d", 0o755));
    f::write(s.at("upper"), "").unwrap();
    let born = |s: &Scene, name: &str| {
        let stat = statx(CWD, s.at(name), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BTIME).unwrap();
        assert!(stat.stx_mask & StatxFlags::BTIME.bits() != 0, "{name}");
        (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)
    };
    let all = |s: &Scene| ["lower", "upper", "d"].map(|name| born(s, name));
    let before = all(&s);
    assert!(before.iter().all(|(seconds, _)| *seconds > 1_000_000_000));
    s.remount_by_other();
    assert_eq!(all(&s), before);
}

/// `statx` and `stat` agree, and tell blocks as the real file has them; a merged directory has one link.
pub fn what_statx_tells(d: &Drivers) {
    let s = Scene::new(d)
        .lower(|t| {
            t.file("f", vec![1; 100_000])
                .dir("d", 0o755)
                .dir("d/e", 0o755)
                .hard_link("g", "f")
        })
        .lower(|t| t.dir("d", 0o755))
        .mount();
    let basic = |name: &str| {
        statx(
            CWD,
            s.at(name),
            AtFlags::SYMLINK_NOFOLLOW,
            StatxFlags::BASIC_STATS,
        )
        .unwrap()
    };
    for name in ["f", "d", ""] {
        let (new, old) = (basic(name), f::lstat(s.at(name)).unwrap());
        assert_eq!(
            (new.stx_ino, new.stx_size),
            (old.st_ino, old.st_size as u64),
            "{name}"
        );
        assert_eq!(u64::from(new.stx_nlink), old.st_nlink, "{name}");
        assert_eq!(new.stx_blocks, old.st_blocks as u64, "{name}");
    }
    assert_eq!(basic("f").stx_nlink, 2);
    assert_eq!(basic("d").stx_nlink, 1);
    let real = f::lstat(s.lower_at(0, "f")).unwrap();
    assert_eq!(basic("f").stx_blocks, real.st_blocks as u64);
}

/// Access tests by `access(2)` are those of the shown mode.
pub fn access(d: &Drivers) {
    use rustix::fs::{Access, accessat};
    let s = Scene::mounted(d, |t| t.file("f", "").mode("f", 0o604).dir("d", 0o700));
    let ask = |user, path: &str, what| {
        let path = s.at(path);
        f::as_user(user, user, &[], move || {
            accessat(CWD, &path, what, AtFlags::empty())
        })
    };
    assert_eq!(ask(1000, "f", Access::READ_OK), Ok(()));
    refused(ask(1000, "f", Access::WRITE_OK), Errno::ACCESS);
    refused(ask(1000, "d/x", Access::EXISTS), Errno::ACCESS);
    assert_eq!(ask(0, "f", Access::WRITE_OK), Ok(()));
    refused(ask(0, "f", Access::EXEC_OK), Errno::ACCESS);
}

/// Attributes of what is missing.
pub fn of_what_is_missing(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("gone", ""));
    f::unlink(s.at("gone")).unwrap();
    for name in ["gone", "never"] {
        refused(f::chmod(s.at(name), 0o600), Errno::NOENT);
        refused(f::chown(s.at(name), Some(1), None), Errno::NOENT);
        refused(f::set_times(s.at(name), (1, 0), (1, 0)), Errno::NOENT);
        refused(f::set_xattr(s.at(name), "user.a", ""), Errno::NOENT);
        refused(f::get_xattr(s.at(name), "user.a"), Errno::NOENT);
    }
}

/// A copy-up for an attribute keeps all the others, and the parent directory's times.
pub fn a_copy_up_keeps_the_rest(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("p", 0o750)
            .file("p/f", "text")
            .mode("p/f", 0o640)
            .owner("p/f", 8, 9)
            .xattr("p/f", "user.a", "1")
            .times("p/f", 300, 400)
            .times("p", 100, 200)
    });
    f::set_xattr(s.at("p/f"), "user.b", "2").unwrap();
    let stat = f::lstat(s.at("p/f")).unwrap();
    assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), (8, 9, 0o640));
    assert_eq!(f::modified(&stat), (400, 222));
    assert_eq!(f::list_xattrs(s.at("p/f")).unwrap(), ["user.a", "user.b"]);
    assert_eq!(f::modified(&f::lstat(s.at("p")).unwrap()), (200, 222));
    assert_eq!(f::mode(s.at("p")), Ok(0o750));
}
