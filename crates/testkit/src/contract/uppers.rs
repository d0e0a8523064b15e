//! Upper directories on file systems that lack something.

use rustix::io::Errno;

use super::{Drivers, Scene, Tree, exceptions};
use crate::disk::Disk;
use crate::files::{self as f, refused};

/// An overlay whose upper directory takes no attributes.
fn scene(d: &Drivers, disk: &Disk) -> Scene {
    let fill = |t: Tree| {
        t.file("f", "f")
            .dir("d", 0o755)
            .file("d/g", "g")
            .dir("d/sub", 0o750)
            .dir("e", 0o755)
            .file("e/h", "h")
            .dir("e/sub", 0o755)
            .file("e/sub/i", "i")
            .hard_link("hard", "f")
    };
    Scene::new(d).lower(fill).writable_in(&disk.path()).mount()
}

/// Without attributes things are copied up, made, removed and covered; directories of lower layers are not renamed, and
/// nothing can be given an attribute.
pub fn without_attributes(d: &Drivers) {
    let disk = Disk::ramfs();
    let mut s = scene(d, &disk);
    f::append(s.at("f"), "+").unwrap();
    f::chmod(s.at("d/g"), 0o600).unwrap();
    f::unlink(s.at("hard")).unwrap();
    f::mkdir(s.at("new"), 0o755).unwrap();
    f::write(s.at("new/file"), "new").unwrap();
    f::rename(s.at("new/file"), s.at("d/file")).unwrap();
    f::unlink(s.at("d/g")).unwrap();
    f::write(s.at("hard"), "another").unwrap();
    refused(f::rename(s.at("d"), s.at("elsewhere")), Errno::XDEV);
    refused(f::set_xattr(s.at("f"), "user.a", "b"), Errno::OPNOTSUPP);
    assert!(s.is_whiteout("d/g"));
    assert_eq!(f::names(s.at("")).unwrap(), ["d", "e", "f", "hard", "new"]);
    assert_eq!(f::names(s.at("d")).unwrap(), ["file", "sub"]);
    assert_eq!(f::read(s.at("f")).unwrap(), b"f+");
    s.same_after_remounts();
}

/// Whoever empties a directory with lower entries can remove it and make another, in which nothing of them comes back.
pub fn emptied_directories_without_attributes(d: &Drivers) {
    let disk = Disk::ramfs();
    let mut s = scene(d, &disk);
    f::unlink(s.at("e/sub/i")).unwrap();
    f::unlink(s.at("e/h")).unwrap();
    if !exceptions::WITHOUT_ATTRIBUTES.applies(&s) {
        refused(f::rmdir(s.at("e/sub")), Errno::IO);
        return;
    }
    // The kernel's overlay needs RENAME_WHITEOUT of the file system, which this one has not.
    f::rename(s.at("d/g"), s.at("g")).unwrap();
    f::rmdir(s.at("e/sub")).unwrap();
    f::rmdir(s.at("e")).unwrap();
    f::mkdir(s.at("e"), 0o711).unwrap();
    assert_eq!(f::names(s.at("e")).unwrap(), [""; 0]);
    f::write(s.at("e/h"), "again").unwrap();
    f::mkdir(s.at("e/sub"), 0o755).unwrap();
    assert_eq!(f::names(s.at("e/sub")).unwrap(), [""; 0]);
    s.same_after_remounts();
    // What was made over something that is hidden is hidden again when it goes.
    f::unlink(s.at("e/h")).unwrap();
    assert_eq!(f::names(s.at("e")).unwrap(), ["sub"]);
    f::rmdir(s.at("e/sub")).unwrap();
    s.same_after_remounts();
    f::rmdir(s.at("e")).unwrap();
    f::write(s.at("e"), "a file").unwrap();
    s.same_after_remounts();
    // A directory that hides something cannot take another's place.
    f::mkdir(s.at("new"), 0o755).unwrap();
    f::unlink(s.at("e")).unwrap();
    refused(f::rename(s.at("new"), s.at("e")), Errno::XDEV);
    assert_eq!(f::names(s.at("")).unwrap(), ["d", "f", "g", "hard", "new"]);
    s.same_after_remounts();
}
