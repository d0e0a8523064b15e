//! What our driver does otherwise than the kernel's overlay, on purpose: the whole list, each with its reason.
//!
//! A case that shows one of these asks [`Exception::applies`] and states both results.

use super::Scene;

/// A difference that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// What differs.
    pub what: &'static str,
    /// Why it is meant to.
    pub reason: &'static str,
}

/// A shared map of a lower file does see what is written after the copy-up.
pub const MAP_BEFORE_COPY_UP: Exception = Exception {
    what: "a shared map made before the copy-up shows what is written after it",
    reason: "the kernel's overlay maps the lower file itself, which goes stale; one inode has one page cache in ours",
};

/// An unlinked lower file has no link left.
pub const LINKS_OF_AN_UNLINKED_LOWER_FILE: Exception = Exception {
    what: "fstat of an open lower file that was unlinked says st_nlink 0",
    reason: "the kernel's overlay asks the lower file, which still has its name, and says 1",
};

/// An unlinked lower file can still be changed.
pub const CHANGING_AN_UNLINKED_LOWER_FILE: Exception = Exception {
    what: "fchmod and fsetxattr work on an open lower file that was unlinked",
    reason: "the kernel's overlay tries to copy it up to the name where the whiteout lies by now, and says EEXIST",
};

/// Ranges cannot be collapsed or inserted.
pub const RANGES_ARE_NOT_MOVED: Exception = Exception {
    what: "fallocate with COLLAPSE_RANGE or INSERT_RANGE says EOPNOTSUPP",
    reason: "the kernel's FUSE client refuses these modes before the server is asked",
};

/// `FICLONE` is refused.
pub const FICLONE_IS_NOT_CARRIED: Exception = Exception {
    what: "the ioctls FICLONE and FICLONERANGE say EOPNOTSUPP",
    reason: "the kernel's FUSE client has no remap_file_range; copy_file_range shares blocks instead",
};

/// Space comes back late.
pub const SPACE_COMES_BACK_LATE: Exception = Exception {
    what: "the space of a removed file is free a moment after its last descriptor was closed",
    reason: "the kernel's FUSE client tells the server of a close without waiting for it",
};

/// Set-gid that means nothing stays.
pub const A_STRANGERS_WRITE_LEAVES_SETGID: Exception = Exception {
    what: "a write by who is not in the file's group leaves set-gid where the group may not execute",
    reason: "FUSE says when privileges go, not who writes; by its protocol set-gid goes only with group execution",
};

/// A change of neither owner nor group is not refused while the file is written to.
pub const CHOWN_OF_NOTHING: Exception = Exception {
    what: "chown(-1, -1) of somebody else's file with set-id bits, which is open for writing, succeeds and takes them away",
    reason: "the kernel's FUSE client asks so for a write, too, and does not say which it was",
};

/// Emptied directories can be removed, and made again, where no attribute can say that one is opaque.
pub const WITHOUT_ATTRIBUTES: Exception = Exception {
    what: "on an upper directory without extended attributes a directory that had lower entries can be removed, and one be made in its place",
    reason: "the kernel's overlay says EIO, having no other way to hide what is below; whiteouts in the new directory do, and it reads them",
};

/// Data that found no room leaves no trace.
pub const NO_TRACE_OF_DATA_WITHOUT_ROOM: Exception = Exception {
    what: "with metacopy, a file whose data finds no room in the upper directory keeps its time of modification, and takes no room",
    reason: "nobody has changed it; the kernel's overlay leaves the time of its own attempt, and what it had copied",
};

/// Every exception.
pub const ALL: &[Exception] = &[
    MAP_BEFORE_COPY_UP,
    LINKS_OF_AN_UNLINKED_LOWER_FILE,
    CHANGING_AN_UNLINKED_LOWER_FILE,
    RANGES_ARE_NOT_MOVED,
    FICLONE_IS_NOT_CARRIED,
    SPACE_COMES_BACK_LATE,
    A_STRANGERS_WRITE_LEAVES_SETGID,
    CHOWN_OF_NOTHING,
    WITHOUT_ATTRIBUTES,
    NO_TRACE_OF_DATA_WITHOUT_ROOM,
];

impl Exception {
    /// Whether the driver that is judged is excepted.
    pub fn applies(&self, scene: &Scene) -> bool {
        scene.judged().is_fuse()
    }
}
