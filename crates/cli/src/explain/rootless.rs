//! Ordinary users' namespaces.

use runtime::rootless::{IdsError, RootlessError};

use super::Explain;

impl Explain for RootlessError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            RootlessError::Refused(_) => {
                "an administrator can let users have namespaces: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns"
            }
            RootlessError::Ids(IdsError::NoProgram(_)) => "it is in Debian's package uidmap",
            RootlessError::Ids(IdsError::Program { .. }) => {
                "it must be set-uid root, and /etc/subuid and /etc/subgid must give this user ids that it may have"
            }
            RootlessError::Ids(_) => "see that the kernel lets users have namespaces: unshare -Ur true",
            RootlessError::NotAlone(_) => {
                "name a directory that nobody else can write with --state, or set XDG_RUNTIME_DIR"
            }
            RootlessError::State { .. } => "name another with --state, or set XDG_RUNTIME_DIR",
            RootlessError::Enter { .. } | RootlessError::Hidden => {
                "end this user's containers, and the process whose command line has hold-namespaces; the next command makes new ones"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}
