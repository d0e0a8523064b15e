//! pasta: the network of an ordinary user's container. The user may change nothing of the machine's network; pasta, a program
//! of the user's, gives the container a device with the machine's own addresses, and makes connections of its own for what
//! comes out of it. It listens at the ports that are published.
//!
//! It goes by itself when the file of the container's network namespace does (`--netns`), whoever was killed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::state::ProcessId;
use rustix::process::Signal;

use crate::ports::{Mapping, Protocol};

/// What the network is called.
pub const NAME: &str = "pasta";

/// Where it is looked for: an ordinary user's `PATH` may lead anywhere, and is not read.
const PLACES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/current-system/sw/bin"];

/// The interface in the container.
const INTERFACE: &str = "eth0";

/// It is given SIGKILL, so this is long.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why it does not serve a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PastaError {
    /// It is not installed.
    #[error("the program pasta is not installed")]
    Missing,
    /// It could not be started.
    #[error("{}: {source}", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// It said no.
    #[error("{words}")]
    Refused {
        /// Its own words.
        words: String,
    },
}

/// The program.
///
/// # Errors
/// [`PastaError::Missing`].
pub fn find() -> Result<PathBuf, PastaError> {
    let found = PLACES.map(|place| Path::new(place).join(NAME));
    found
        .into_iter()
        .find(|path| path.is_file())
        .ok_or(PastaError::Missing)
}

/// Has it serve the namespace that is bound at `namespace`, from now on; it writes its number into `pid_file`.
pub(crate) fn start(
    program: &Path,
    namespace: &Path,
    pid_file: &Path,
    ports: &[Mapping],
) -> Result<ProcessId, PastaError> {
    let failed = |source| PastaError::Start {
        program: program.to_owned(),
        source,
    };
    let mut command = Command::new(program);
    command
        .args(["--config-net", "--quiet", "--ns-ifname", INTERFACE])
        // Nothing of the machine's loopback is to be seen in the container: not by the gateway's address, and not by its own.
        .args(["--no-map-gw", "--tcp-ns", "none", "--udp-ns", "none"]);
    for (protocol, flag) in [(Protocol::Tcp, "--tcp-ports"), (Protocol::Udp, "--udp-ports")] {
        let wanted: Vec<_> = ports.iter().filter(|one| one.protocol == protocol).collect();
        if wanted.is_empty() {
            command.args([flag, "none"]);
        }
        for one in wanted {
            command.arg(flag).arg(published(one));
        }
    }
    let output = command
        .arg("--pid")
        .arg(pid_file)
        .arg("--netns")
        .arg(namespace)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        return Err(PastaError::Refused {
            words: match words.is_empty() {
                true => format!("it ended with {}", output.status),
                false => words,
            },
        });
    }
    // It has gone into the background, and is ready.
    let number = std::fs::read_to_string(pid_file).map_err(failed)?;
    let number = number.trim().parse();
    let number = number.map_err(|_| failed(io::ErrorKind::InvalidData.into()))?;
    ProcessId::of(number).map_err(failed)
}

/// `[ADDRESS/]HOST:CONTAINER`.
fn published(one: &Mapping) -> String {
    let address = one.host_ip.map(|address| format!("{address}/"));
    format!(
        "{}{}:{}",
        address.unwrap_or_default(),
        one.host_port,
        one.container_port
    )
}

/// Ends it, so that its ports are free.
pub(crate) fn stop(process: &ProcessId) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while let Some(pidfd) = process.open()? {
        match rustix::process::pidfd_send_signal(&pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_its_words() {
        let mut one = Mapping {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        assert_eq!(published(&one), "8080:80");
        one.host_ip = Some([127, 0, 0, 1].into());
        assert_eq!(published(&one), "127.0.0.1/8080:80");
    }
}
