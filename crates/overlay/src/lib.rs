//! What an overlay *means*: the on-disk format of the kernel's overlayfs, and what a stack of layers looks like
//! when it is merged.
//!
//! The kernel is the specification; `docs/format/overlay.md` states what strata relies on. This crate holds the
//! rules once, for the unpacker that writes layers, for `diff` and `commit` that read a container's upper
//! directory, and for any driver that serves a merged view.
//!
//! - [`xattr`]: the attributes' names, and the escape for nested overlays.
//! - [`whiteout`]: whiteouts and opaque directories.
//! - [`redirect`], [`metacopy`], [`handle`]: the other attributes that a reader must decode.
//! - [`stat_override`]: owners and modes that a file system cannot keep.
//! - [`stack`]: looking a path up in a stack of layers, and listing a merged directory.
//! - [`live`]: a stack in use: its files opened, copied up, changed.
//!
//! What it never does: mount, know a container, know how a layer is packed into an archive.
//!
//! Start reading at [`stack`].

pub mod handle;
pub mod live;
pub mod metacopy;
pub mod redirect;
pub mod stack;
pub mod stat_override;
pub mod whiteout;
pub mod xattr;

pub use stack::Stack;
pub use whiteout::{Opaque, WhiteoutKind};
pub use xattr::Prefix;

/// How a layer is written and read: what a snapshot's row records, so that it is always mounted as it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Format {
    /// Which attributes are the overlay's own.
    pub prefix: Prefix,
    /// Which kind of whiteout is written; both are read.
    pub whiteouts: WhiteoutKind,
}

impl Format {
    /// What a privileged mount without `userxattr` takes: `trusted.overlay.` and devices.
    pub const TRUSTED: Format = Format {
        prefix: Prefix::Trusted,
        whiteouts: WhiteoutKind::Device,
    };
    /// What a mount with `userxattr` takes, whose layers an unprivileged user can write.
    pub const USER: Format = Format {
        prefix: Prefix::User,
        whiteouts: WhiteoutKind::Attribute,
    };
}
