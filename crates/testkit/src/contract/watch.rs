//! inotify: what happens is told to who watches, wherever the file was when the watch began.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files as f;

struct Watch(OwnedFd);

impl Watch {
    fn on(path: std::path::PathBuf) -> Watch {
        let watch = Watch(init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap());
        add_watch(&watch.0, path, WatchFlags::ALL_EVENTS).unwrap();
        watch
    }

    /// What was told since the last time, with the names it concerns.
    fn told(&self) -> Vec<(ReadFlags, String)> {
        let mut buffer = [MaybeUninit::uninit(); 8192];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut told = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    told.push((event.events(), name.unwrap_or_default()));
                }
                Err(Errno::AGAIN) => return told,
                Err(errno) => panic!("inotify: {errno}"),
            }
        }
    }

    /// Told now, or soon: a program that another test starts holds our files open until its exec, and an end of writing
    /// is told by the last who held one.
    #[track_caller]
    fn expect(&self, what: ReadFlags, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut told = Vec::new();
        loop {
            told.extend(self.told());
            let is_it = |(flags, concerns): &(ReadFlags, String)| flags.contains(what) && concerns == name;
            if told.iter().any(is_it) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what:?} of {name:?} is not among {told:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A watched directory tells what is made, changed, renamed and removed in it.
pub fn a_directory(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.dir("d", 0o755).file("d/lower", "x").file("d/gone", ""));
    let watch = Watch::on(s.at("d"));
    f::write(s.at("d/new"), "x").unwrap();
    watch.expect(ReadFlags::CREATE, "new");
    f::append(s.at("d/new"), "y").unwrap();
    watch.expect(ReadFlags::MODIFY, "new");
    f::chmod(s.at("d/lower"), 0o600).unwrap();
    watch.expect(ReadFlags::ATTRIB, "lower");
    f::append(s.at("d/lower"), "y").unwrap();
    watch.expect(ReadFlags::CLOSE_WRITE, "lower");
    f::rename(s.at("d/new"), s.at("d/newer")).unwrap();
    watch.expect(ReadFlags::MOVED_TO, "newer");
    f::unlink(s.at("d/gone")).unwrap();
    watch.expect(ReadFlags::DELETE, "gone");
    f::mkdir(s.at("d/sub"), 0o755).unwrap();
    watch.expect(ReadFlags::CREATE | ReadFlags::ISDIR, "sub");
}

/// A watch that was set on a file while it was in the lower layer fires after its copy-up.
pub fn a_file_before_its_copy_up(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "x"));
    let watch = Watch::on(s.at("f"));
    f::append(s.at("f"), "y").unwrap();
    watch.expect(ReadFlags::MODIFY, "");
    f::chmod(s.at("f"), 0o600).unwrap();
    watch.expect(ReadFlags::ATTRIB, "");
    f::read(s.at("f")).unwrap();
    watch.expect(ReadFlags::ACCESS, "");
    f::rename(s.at("f"), s.at("g")).unwrap();
    watch.expect(ReadFlags::MOVE_SELF, "");
    f::append(s.at("g"), "z").unwrap();
    watch.expect(ReadFlags::MODIFY, "");
    f::unlink(s.at("g")).unwrap();
    watch.expect(ReadFlags::DELETE_SELF, "");
}

/// A directory that was watched before its copy-up tells what is made in it then.
pub fn a_directory_before_its_copy_up(d: &Drivers) {
    let s = Scene::mounted_with(d, "redirect_dir=on", |t| {
        t.dir("d", 0o755).dir("d/e", 0o755).file("d/e/f", "")
    });
    let watch = Watch::on(s.at("d/e"));
    f::write(s.at("d/e/new"), "").unwrap();
    watch.expect(ReadFlags::CREATE, "new");
    f::rename(s.at("d"), s.at("x")).unwrap();
    f::write(s.at("x/e/newer"), "").unwrap();
    watch.expect(ReadFlags::CREATE, "newer");
}
