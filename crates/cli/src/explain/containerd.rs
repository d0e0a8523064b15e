//! What can be said about what containerd answers.

use snapshotter::forgotten::AskError;

use super::Explain;

impl Explain for AskError {
    fn hint(&self) -> Option<String> {
        let hint = match self.is_apart() {
            true => {
                "it does not reach strata: start `strata serve snapshotter`, at the address of its proxy_plugins"
            }
            false => {
                "--containerd=SOCKET names its socket, --snapshotter what its configuration calls strata"
            }
        };
        Some(hint.to_owned())
    }
}
