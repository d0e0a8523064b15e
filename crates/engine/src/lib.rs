//! The use cases, one file per verb: what the command line calls, and what a program of somebody else's may call.
//!
//! An [`Engine`] is a store, a directory for running containers, and a namespace. Each verb (`run`, `pull`, `ps`, …)
//! is a method, in the file of its name with its own values and its own error. Values go in and come out; what goes
//! on meanwhile is told to a [`progress::Progress`].
//!
//! It never prints, never exits, and never reads the environment: paths, the helper program and variables are
//! parameters. It holds no rule of its own about layers (that is `store` and `image`) nor about processes
//! (`runtime`): it joins them.
//!
//! Start reading at [`run`], which uses everything.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod attach;
pub mod commit;
pub mod confine;
pub mod cp;
pub mod dedup;
pub mod df;
pub mod diff;
pub mod events;
pub mod exec;
pub mod export;
mod find;
pub mod fsck;
pub mod history;
pub mod images;
pub mod import;
pub mod info;
pub mod inspect;
pub mod kill;
pub mod layers;
pub mod load;
pub mod login;
pub mod logs;
pub mod manifest;
mod mounted;
mod names;
pub mod network;
mod outfile;
pub mod pause;
pub mod policy;
pub mod prune;
pub mod ps;
pub mod pull;
pub mod push;
mod rename;
pub mod restart;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod save;
pub mod snapshots;
pub mod squash;
pub mod state;
pub mod stats;
pub mod stop;
pub mod tag;
mod told;
pub mod top;
pub mod tree;
pub mod update;
pub mod volumes;
pub mod wait;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use network::Networking;
use store::Store;

pub use image::unpack::Limits;
pub use mount::fuse::{Driver, Helper as Server};
pub use runtime::Helper;
pub use store::OpenError;

/// What lies behind the errors of the verbs, for those who tell them apart.
pub mod errors {
    pub use image::install::InstallError;
    pub use image::layer_tar::LayerTarError;
    pub use image::save::Incomplete;
    pub use image::stored::StoredError;
    pub use image::unpack::UnpackError;
    pub use store::{BlobError, ContainerError, Fault, ImageError, IngestError, SnapshotError, VolumeError};
}

/// What goes on in a pull, a load, a push and the like: see [`image::progress`].
pub mod progress {
    pub use image::progress::{Event, Progress, Silent};
    pub use store::Digest;
}

/// Where an engine works, and as whom.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The store; made when it is missing.
    pub root: PathBuf,
    /// Where bundles lie; made when it is missing.
    pub state: PathBuf,
    /// Namespace of containers and images: one path component.
    pub namespace: String,
    /// The program that becomes a container's supervisor.
    pub helper: Helper,
    /// The program that serves the root file system of a container where the kernel's overlay does not.
    pub server: Server,
    /// Program and first arguments that remove a container once it has ended and whoever ran it is gone; its id
    /// follows. Empty for none.
    pub remover: Vec<OsString>,
    /// What a layer may do to the machine that unpacks it.
    pub limits: Limits,
    /// What is done by itself once an image was brought.
    pub policy: policy::Policy,
    /// How networks are made.
    pub networking: Networking,
    /// The ids that containers with ids of their own share among them, where they are not those of `/etc/subuid`: the first
    /// and how many.
    pub ids: Option<(u32, u32)>,
}

impl Setup {
    /// Directory of the namespace's bundles.
    fn bundles(&self) -> PathBuf {
        self.state.join(&self.namespace)
    }
}

/// Everything that can be done with images and containers of one namespace.
pub struct Engine {
    store: Store,
    setup: Setup,
}

impl Engine {
    /// Opens the store, or makes it.
    ///
    /// # Errors
    /// A store that cannot be made or opened; see [`OpenError`].
    pub fn open(setup: Setup) -> Result<Engine, OpenError> {
        let state = setup.state.clone();
        let is_up = move |row: &store::Container| state::state(&state, row).is_up();
        Ok(Engine {
            store: Store::open(&setup.root)?.asking(is_up),
            setup,
        })
    }

    /// The namespace.
    fn ns(&self) -> &str {
        &self.setup.namespace
    }

    /// Directory of the namespace's bundles.
    fn bundles(&self) -> PathBuf {
        self.setup.bundles()
    }

    /// What the overlay's attributes begin with in the store.
    fn prefix(&self) -> overlay::Prefix {
        image::unpack::Form::of(&self.store).overlay.prefix
    }

    /// The bundle of the container with this id, which may not exist.
    fn bundle_path(&self, id: &str) -> PathBuf {
        self.bundles().join(id)
    }

    /// The state directory.
    fn state_dir(&self) -> &Path {
        &self.setup.state
    }
}
