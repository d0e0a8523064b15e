//! `strata serve`: services that other engines call.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use snapshotter::socket::Socket;
use snapshotter::{Fuse, Limits, Options, PATIENCE, Server, Snapshotter, page};
use sys::signal::{Set, SignalFd, set_mask};

use super::{Context, Outcome};
use crate::failure::Failure;

/// Serve containerd as a snapshotter, so that its images and containers stand on this store
///
/// containerd is told of it as a proxy plug-in: docs/containerd.md has what to write where. The service is stopped by
/// SIGTERM, after what is under way, which for a commit may be ten minutes; containers that stand on it do not notice, and
/// nothing is lost where it is killed. Where systemd opens the socket, that one is served.
#[derive(Debug, Args)]
pub(crate) struct SnapshotterArgs {
    /// The socket
    #[arg(long, value_name = "PATH", default_value = "/run/strata/snapshotter.sock")]
    address: PathBuf,
    /// Serve /metrics for Prometheus, and /healthz, at this address and port
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Answer a call that takes longer than so many seconds
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Tell where each snapshot's own directory is, by the label containerd.io/snapshot/overlay.upperdir
    #[arg(long)]
    upperdir_label: bool,
    /// Map no ids by mounts: for a containerd that does not know the capability remap-ids and changes owners itself
    #[arg(long)]
    no_remap_ids: bool,
    /// Who mounts overlays: containerd, as the kernel's (kernel), or strata, each served by a process of its own (fuse)
    #[arg(long, value_name = "DRIVER", default_value = "kernel", value_parser = ["kernel", "fuse"])]
    driver: String,
    /// Options of every overlay mount, with commas between
    #[arg(long, value_name = "OPTIONS", value_delimiter = ',')]
    mount_options: Vec<String>,
}

pub(crate) fn snapshotter(context: &Context, args: SnapshotterArgs) -> Outcome {
    if crate::rootless::is_ordinary() {
        return Err(Failure::user("containerd's snapshots are served by root")
            .hint("beside a containerd of an ordinary user, run it where that runs: within rootlesskit"));
    }
    if let Some(option) = args.mount_options.iter().find(|option| is_ours(option)) {
        return Err(Failure::user(format!(
            "--mount-options {option}: the directories are strata's to name"
        )));
    }
    let is_fuse = args.driver == "fuse";
    if is_fuse {
        let options = fuse::options::Options::parse(&args.mount_options).map_err(Failure::user)?;
        options.check(true).map_err(Failure::user)?;
        // A layer that is unpacked apart is the kernel's all the same.
        if let Some(option) = options.fuse_only {
            return Err(Failure::user(format!(
                "--mount-options {option}: the kernel's overlay has no equal for it"
            ))
            .hint("containerd mounts layers that it unpacks apart by the kernel's driver, with the same options"));
        }
    }
    let failed = |what: &str, error: io::Error| Failure::user(format!("{what}: {error}"));
    // Before there is a second thread: all of them hold the signals back, and this one is told.
    let ends = Set::empty()
        .with(rustix::process::Signal::TERM.as_raw())
        .with(rustix::process::Signal::INT.as_raw());
    set_mask(ends).map_err(|e| failed("holding signals back", e))?;
    let stop = SignalFd::new(ends).map_err(|e| failed("listening for signals", e))?;
    super::raise_file_limit();
    sys::memory::one_heap();

    let socket = match passed()? {
        Some(fds) => Socket::passed(fds)?,
        None => Socket::bind(&args.address)?,
    };
    let options = Options {
        upperdir_label: args.upperdir_label,
        mount_options: args.mount_options,
        no_remap_ids: args.no_remap_ids,
        fuse: None,
    };
    let (state, root) = (&context.settings.state, &context.settings.root);
    let service = Snapshotter::open(root, options)?;
    let fuse = Fuse::new(crate::overlay::helper(), state, root, is_fuse)
        .map_err(|e| failed(&format!("making the state directory {}", state.display()), e))?;
    let service = Arc::new(service.mounted_by(fuse));
    service
        .look_after_served()
        .map_err(|e| failed("starting a thread", e))?;
    let time = Duration::from_secs(args.timeout);
    let limits = Limits {
        time,
        drain: time.max(PATIENCE),
        ..Limits::default()
    };
    let server = Server::new(service.clone(), limits).map_err(|e| failed("starting threads", e))?;
    if let Some(address) = args.metrics {
        let address =
            page::serve(service, address).map_err(|e| failed(&format!("serving metrics at {address}"), e))?;
        tell(context, &format!("metrics at http://{address}/metrics"));
    }
    let place = match socket.is_passed() {
        true => "the socket that the service manager opened".to_owned(),
        false => args.address.display().to_string(),
    };
    tell(
        context,
        &format!("snapshots of {} at {place}", context.settings.root.display()),
    );
    sys::memory::release_program();
    notify("READY=1");
    let mut told = false;
    let served = server.serve(socket.listener(), &stop, || {
        // A commit may take longer than the manager waits, who gives more time as long as that is asked for.
        notify(match std::mem::replace(&mut told, true) {
            false => "STOPPING=1",
            true => "EXTEND_TIMEOUT_USEC=15000000",
        });
    });
    served.map_err(|e| failed("taking connections", e))?;
    Ok(0)
}

/// Whether it is one of those that a snapshot's mount is made of.
fn is_ours(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or_default();
    ["lowerdir", "upperdir", "workdir", "lowerdir+", "datadir+"].contains(&name) || option.is_empty()
}

/// With `--verbose`, on standard error.
fn tell(context: &Context, text: &str) {
    if context.verbose {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// What the service manager opened for this process (sd_listen_fds(3)); `None` where it did not.
fn passed() -> Result<Option<Vec<std::os::fd::OwnedFd>>, Failure> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    // What was meant for a parent of ours is none of ours.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    let Some(count) = number("LISTEN_FDS").filter(|count| *count > 0) else {
        return Ok(None);
    };
    match sys::activation::take(count) {
        Ok(fds) => Ok(Some(fds)),
        Err(error) => Err(Failure::user(format!("LISTEN_FDS={count}: {error}"))),
    }
}

/// Tells the service manager how it is (sd_notify(3)). Where nobody listens, nobody misses it.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => UnixAddress::from_abstract_name(name),
        None => UnixAddress::from_pathname(Path::new(&path)),
    };
    if let (Ok(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(state.as_bytes(), &address);
    }
}
