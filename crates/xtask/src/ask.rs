//! `cargo xtask ask`: a call of containerd's to a snapshotter, for a machine that has no containerd.

use std::path::PathBuf;

use anyhow::Result;
use testkit::snapshots::Remote;
use testkit::snapshotter::Snapshotter;

const NAMESPACE: &str = "k8s.io";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The snapshotter's socket
    socket: PathBuf,
    #[command(subcommand)]
    call: Call,
}

#[derive(clap::Subcommand)]
enum Call {
    /// Prepares a snapshot, and says what is to be mounted
    Prepare { key: String, parent: Option<String> },
    /// Says what is to be mounted
    Mounts { key: String },
    /// Commits a snapshot by another name
    Commit { name: String, key: String },
    /// Removes a snapshot
    Remove { key: String },
    /// Frees what is left of those that were removed
    Cleanup,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let remote = Remote::new(&args.socket, NAMESPACE);
    let mounts = match &args.call {
        Call::Prepare { key, parent } => remote.prepare(key, parent.as_deref(), &Default::default())?,
        Call::Mounts { key } => remote.mounts(key)?,
        Call::Commit { name, key } => {
            remote.commit(name, key, &Default::default(), None)?;
            Vec::new()
        }
        Call::Remove { key } => {
            remote.remove(key)?;
            Vec::new()
        }
        Call::Cleanup => {
            remote.cleanup()?;
            Vec::new()
        }
    };
    for mount in mounts {
        println!("{}", mount.source);
    }
    Ok(())
}
