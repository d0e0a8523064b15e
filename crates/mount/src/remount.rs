//! Changing the attributes of a mount that is there: mount(8)'s `remount`.

use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::kernel::mount2_flags;
use crate::{MountError, fuse};

/// Gives the mount at exactly `target` these attributes and no others. Read-only is the file system too, everywhere it
/// is mounted.
///
/// # Errors
/// `EROFS` for an overlay without an upper directory that is to be written; `EBUSY` for one that is to become
/// read-only while a file on it is open for writing; `EINVAL` for what is no mount.
pub fn remount(target: &Path, attributes: MountAttrFlags) -> Result<(), MountError> {
    let failed = |errno: Errno| MountError::Io {
        what: "remounting",
        path: target.to_path_buf(),
        error: errno.into(),
    };
    // The kernel's overlay answers this by itself; of a FUSE mount the kernel knows nothing.
    if !attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) && fuse::never_written(target) {
        return Err(failed(Errno::ROFS));
    }
    rustix::mount::mount_remount(target, mount2_flags(attributes), c"").map_err(failed)
}
