//! [`Mount`]: one plain value that joins storage and runtime, and the driver that makes it real.
//!
//! A [`Mount`] says what to mount (type, source, options), in the words mount(8) and containerd use. The store
//! returns such values and never mounts; a container's root is made by [`attach`]. Nothing here knows a
//! snapshot, an image or a container.
//!
//! - [`value`]: the value, and how paths are escaped in it.
//! - [`overlay`]: the options of an overlay, taken apart and put together.
//! - [`kernel`]: the kernel's driver: the new mount API, and mount(2) where the kernel is too old for it.
//! - `idmap`: layers whose owners are seen as others.
//! - [`fuse`]: the driver in user space: a process that serves the overlay, started and ended.
//! - [`remount`]: new attributes for a mount that is there.
//! - [`table`]: what is mounted, read from mountinfo.
//!
//! Start reading at [`value`].

pub mod fuse;
mod idmap;
pub mod kernel;
pub mod overlay;
pub mod remount;
pub mod table;
pub mod value;

pub use kernel::{MountError, attach, detach};
pub use value::Mount;
