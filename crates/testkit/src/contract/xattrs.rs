//! Extended attributes.

use rustix::fs::{XattrFlags, lgetxattr, lgetxattr_query, llistxattr, llistxattr_query, lsetxattr};
use rustix::io::Errno;

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

/// A file capability: `cap_net_raw+ep`, as `setcap` writes it (revision 2).
pub(super) const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Set, read, list and remove, on files and directories of either layer.
pub fn set_and_remove(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", "").xattr("f", "user.low", "1").dir("d", 0o755));
    f::write(s.at("u"), "").unwrap();
    for name in ["f", "d", "u"] {
        f::set_xattr(s.at(name), "user.a", "one").unwrap();
        f::set_xattr(s.at(name), "user.empty", "").unwrap();
        f::set_xattr(s.at(name), "trusted.t", [0, 255, 1]).unwrap();
        f::set_xattr(s.at(name), "user.a", "two, which is longer").unwrap();
        assert_eq!(
            f::get_xattr(s.at(name), "user.a").unwrap(),
            b"two, which is longer"
        );
        assert_eq!(f::get_xattr(s.at(name), "user.empty").unwrap(), b"");
        assert_eq!(f::get_xattr(s.at(name), "trusted.t").unwrap(), [0, 255, 1]);
        f::remove_xattr(s.at(name), "user.empty").unwrap();
        refused(f::get_xattr(s.at(name), "user.empty"), Errno::NODATA);
        refused(f::remove_xattr(s.at(name), "user.empty"), Errno::NODATA);
    }
    f::remove_xattr(s.at("f"), "user.low").unwrap();
    assert_eq!(f::list_xattrs(s.at("f")).unwrap(), ["trusted.t", "user.a"]);
    s.same_after_remounts();
}

/// `XATTR_CREATE` and `XATTR_REPLACE`.
pub fn create_and_replace(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").xattr("f", "user.there", "1"));
    let set = |name: &str, flags| lsetxattr(s.at("f"), name, b"2", flags);
    refused(set("user.there", XattrFlags::CREATE), Errno::EXIST);
    refused(set("user.new", XattrFlags::REPLACE), Errno::NODATA);
    set("user.new", XattrFlags::CREATE).unwrap();
    set("user.there", XattrFlags::REPLACE).unwrap();
    assert_eq!(f::list_xattrs(s.at("f")).unwrap(), ["user.new", "user.there"]);
}

/// A buffer that is too small is said to be, and the size can be asked for.
pub fn sizes(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").xattr("f", "user.a", "0123456789"));
    refused(lgetxattr(s.at("f"), "user.a", &mut [0; 5][..]), Errno::RANGE);
    refused(llistxattr(s.at("f"), &mut [0; 3][..]), Errno::RANGE);
    assert_eq!(lgetxattr_query(s.at("f"), "user.a"), Ok(10));
    assert_eq!(llistxattr_query(s.at("f")), Ok(7));
    refused(
        f::set_xattr(s.at("f"), &format!("user.{}", "x".repeat(255)), ""),
        Errno::RANGE,
    );
    refused(
        f::set_xattr(s.at("f"), "user.big", vec![0; 70_000]),
        Errno::TOOBIG,
    );
    f::set_xattr(s.at("f"), "user.big", vec![7; 3000]).unwrap();
    assert_eq!(f::get_xattr(s.at("f"), "user.big").unwrap(), vec![7; 3000]);
}

/// Names of the overlay's own are hidden, cannot be read, and are kept apart from what users set under them.
pub fn private_names_are_hidden_and_escaped(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.file("f", "").dir("d", 0o755).file("d/x", ""));
    f::append(s.at("f"), "copied up").unwrap();
    f::unlink(s.at("d/x")).unwrap();
    f::rmdir(s.at("d")).unwrap();
    f::mkdir(s.at("d"), 0o755).unwrap();
    assert!(
        f::list_xattrs(s.upper("f"))
            .unwrap()
            .contains(&super::own("origin"))
    );
    assert!(s.is_opaque("d"));
    for name in ["f", "d"] {
        assert_eq!(f::list_xattrs(s.at(name)).unwrap(), [""; 0]);
    }
    refused(f::get_xattr(s.at("d"), &super::own("opaque")), Errno::NODATA);
    f::set_xattr(s.at("f"), &super::own("opaque"), "y").unwrap();
    assert_eq!(f::list_xattrs(s.at("f")).unwrap(), [super::own("opaque")]);
    assert_eq!(f::get_xattr(s.at("f"), &super::own("opaque")).unwrap(), b"y");
    assert_eq!(
        f::get_xattr(s.upper("f"), &super::own("overlay.opaque")).unwrap(),
        b"y"
    );
    s.same_after_remounts();
    f::remove_xattr(s.at("f"), &super::own("opaque")).unwrap();
    assert_eq!(f::list_xattrs(s.at("f")).unwrap(), [""; 0]);
}

/// What a lower layer has escaped is shown with one level less, and copied up as it is.
pub fn escapes_come_from_below(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .xattr("d", &super::own("overlay.opaque"), "y")
            .xattr("d", &super::own("overlay.overlay.deep"), "2")
            .file("d/f", "")
    });
    let shown = [super::own("opaque"), super::own("overlay.deep")];
    assert_eq!(f::list_xattrs(s.at("d")).unwrap(), shown);
    f::chmod(s.at("d"), 0o700).unwrap();
    assert_eq!(f::list_xattrs(s.at("d")).unwrap(), shown);
    assert_eq!(f::names(s.at("d")).unwrap(), ["f"]);
    s.same_after_remounts();
}

/// Attributes of the kind `user.overlay.` are ordinary in an overlay of the kind `trusted.overlay.`.
pub fn the_other_prefix_is_ordinary(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.dir("d", 0o755)
            .xattr("d", "user.overlay.opaque", "y")
            .file("d/f", "")
    });
    assert_eq!(f::list_xattrs(s.at("d")).unwrap(), ["user.overlay.opaque"]);
    assert_eq!(f::names(s.at("d")).unwrap(), ["f"]);
    f::set_xattr(s.at("d/f"), "user.overlay.redirect", "x").unwrap();
    assert_eq!(
        f::get_xattr(s.upper("d/f"), "user.overlay.redirect").unwrap(),
        b"x"
    );
}

/// With `userxattr` the overlay's own attributes are of the kind `user.overlay.`.
pub fn userxattr(d: &Drivers) {
    let mut s = Scene::new(d)
        .lower(|t| {
            t.dir("d", 0o755)
                .file("d/below", "")
                .dir("e", 0o755)
                .file("e/x", "")
        })
        .lower(|t| {
            t.dir("d", 0o755)
                .xattr("d", "user.overlay.opaque", "y")
                .file("d/here", "")
        })
        .option("userxattr")
        .mount();
    assert_eq!(f::names(s.at("d")).unwrap(), ["here"]);
    assert_eq!(f::list_xattrs(s.at("d")).unwrap(), [""; 0]);
    f::unlink(s.at("e/x")).unwrap();
    f::rmdir(s.at("e")).unwrap();
    f::mkdir(s.at("e"), 0o755).unwrap();
    assert_eq!(f::get_xattr(s.upper("e"), "user.overlay.opaque").unwrap(), b"y");
    assert_eq!(f::list_xattrs(s.at("e")).unwrap(), [""; 0]);
    s.same_after_remounts();
}

/// File capabilities are copied up, and lost by a write.
pub fn capabilities(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| {
        t.file("f", "text")
            .xattr("f", "security.capability", CAPABILITY)
            .file("g", "text")
            .xattr("g", "security.capability", CAPABILITY)
    });
    f::chmod(s.at("f"), 0o755).unwrap();
    assert_eq!(
        f::get_xattr(s.at("f"), "security.capability").unwrap(),
        CAPABILITY
    );
    s.same_after_remounts();
    f::append(s.at("g"), "+").unwrap();
    refused(f::get_xattr(s.at("g"), "security.capability"), Errno::NODATA);
    f::chown(s.at("f"), Some(5), None).unwrap();
    refused(f::get_xattr(s.at("f"), "security.capability"), Errno::NODATA);
}

/// Links have no `user.` attributes, but may have `trusted.` ones.
pub fn on_links(d: &Drivers) {
    let mut s = Scene::mounted(d, |t| t.link_to("l", "x").xattr("l", "trusted.low", "1"));
    refused(f::set_xattr(s.at("l"), "user.a", ""), Errno::PERM);
    f::set_xattr(s.at("l"), "trusted.a", "2").unwrap();
    assert_eq!(f::list_xattrs(s.at("l")).unwrap(), ["trusted.a", "trusted.low"]);
    s.same_after_remounts();
}

/// Who may not write a file sets no attribute on it, and only root sees those called `trusted.`.
pub fn by_another_user(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        t.file("f", "")
            .xattr("f", "user.a", "1")
            .xattr("f", "trusted.t", "1")
    });
    f::as_user(1000, 1000, &[], || {
        assert_eq!(f::list_xattrs(s.at("f")).unwrap(), ["user.a"]);
        assert_eq!(f::get_xattr(s.at("f"), "user.a").unwrap(), b"1");
        refused(f::set_xattr(s.at("f"), "user.a", "2"), Errno::ACCESS);
        refused(f::remove_xattr(s.at("f"), "user.a"), Errno::ACCESS);
        refused(f::set_xattr(s.at("f"), "trusted.x", "2"), Errno::PERM);
        refused(f::get_xattr(s.at("f"), "trusted.t"), Errno::NODATA);
    });
    assert!(!f::exists(s.upper("f")));
}

/// A name without a namespace, or of an unknown one.
pub fn unknown_namespaces(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", ""));
    refused(f::set_xattr(s.at("f"), "nothing", ""), Errno::OPNOTSUPP);
    refused(f::set_xattr(s.at("f"), "strange.name", ""), Errno::OPNOTSUPP);
    refused(f::get_xattr(s.at("f"), "strange.name"), Errno::OPNOTSUPP);
}
