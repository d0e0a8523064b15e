//! Mount points that nearly every container needs: the lowest directory of its root, the same for all of them.
//!
//! What a container is given is mounted on something, and few images have an `/etc/hosts` or `/etc/resolv.conf`. Made
//! in the container's own directory, they would cost each start a copy-up of `/etc` and three new files, which wait
//! for a journal that others keep busy, and would have to be told apart from what the container changed. So they lie
//! beneath all layers. A layer that has something of the same name hides them, as any layer hides what is below it.
//!
//! They are no snapshot's and hold nothing. They are made when first wanted, and never changed or removed afterwards.

use std::io;

use mount::kernel::MAX_LOWER;
use rustix::fs::Mode;
use sys::Dir;

use crate::layout::{Layout, MOUNT_POINTS};
use crate::stack::Lower;

const DIRECTORIES: [&str; 4] = ["dev", "etc", "proc", "sys"];
/// Beneath `etc`. The last one is made last: with it all are there.
const FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Puts the mount points beneath the layers of a container's root; where there are none, or they would be one
/// directory too many, it does without, and they are made in its own when they are needed.
pub(crate) fn beneath(layout: &Layout, lowers: &mut Vec<Lower>) {
    let layers_alone = lowers.iter().all(|lower| matches!(lower, Lower::Number { .. }));
    if layers_alone && (1..MAX_LOWER).contains(&lowers.len()) && are_there(layout) {
        lowers.push(Lower::Foreign(layout.at(MOUNT_POINTS)));
    }
}

/// Makes them if they are missing. In a store that cannot be written to, or is full, they may stay so.
fn are_there(layout: &Layout) -> bool {
    let last = || {
        let etc = layout.root.open_dir(format!("{MOUNT_POINTS}/etc"))?;
        etc.stat(FILES[FILES.len() - 1])
    };
    last().is_ok() || make(&layout.root).is_ok()
}

fn make(root: &Dir) -> io::Result<()> {
    let exists = |made: io::Result<()>| match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    };
    let directory = Mode::from_raw_mode(0o755);
    exists(root.mkdir(MOUNT_POINTS, directory))?;
    let top = root.open_dir(MOUNT_POINTS)?;
    for name in DIRECTORIES {
        exists(top.mkdir(name, directory))?;
    }
    let etc = top.open_dir("etc")?;
    FILES
        .into_iter()
        .try_for_each(|name| exists(etc.create_new(name, Mode::from_raw_mode(0o644)).map(drop)))
}
