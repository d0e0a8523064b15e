//! Credential helpers: programs `docker-credential-NAME` that keep secrets for docker and podman
//! (docker-credential-helpers, "Development": one verb, JSON on standard input and output).

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{AuthError, Credentials};
use crate::text::printable;

/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Store<'a> {
    #[serde(rename = "ServerURL")]
    server_url: &'a str,
    username: &'a str,
    secret: &'a str,
}

/// A helper by the name that a file gives it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Helper<'a> {
    pub(super) name: &'a str,
    /// Where its program is looked for.
    pub(super) dirs: &'a [PathBuf],
}

impl Helper<'_> {
    /// What it keeps for a registry; `None` when it keeps nothing.
    pub(super) fn get(&self, server: &str) -> Result<Option<Credentials>, AuthError> {
        let Some(answer) = self.run("get", server.as_bytes())? else {
            return Ok(None);
        };
        let answer: Answer = serde_json::from_slice(&answer)
            .map_err(|_| self.error("answered something that is no JSON".into()))?;
        Ok(match (answer.username.as_str(), answer.secret) {
            (_, secret) if secret.is_empty() => None,
            (TOKEN_USER, secret) => Some(Credentials::Identity(secret)),
            (username, password) => Some(Credentials::Password {
                username: username.to_owned(),
                password,
            }),
        })
    }

    /// Gives it credentials to keep.
    pub(super) fn store(&self, server: &str, username: &str, secret: &str) -> Result<(), AuthError> {
        let message = serde_json::to_vec(&Store {
            server_url: server,
            username,
            secret,
        })
        .map_err(|e| self.error(e.to_string()))?;
        self.run("store", &message).map(|_| ())
    }

    /// Makes it forget a registry.
    pub(super) fn erase(&self, server: &str) -> Result<(), AuthError> {
        self.run("erase", server.as_bytes()).map(|_| ())
    }

    fn program(&self) -> String {
        format!("docker-credential-{}", self.name)
    }

    fn error(&self, reason: String) -> AuthError {
        AuthError::Helper {
            program: self.program(),
            reason,
        }
    }

    /// Runs one verb; `None` when the helper says that it knows nothing of this registry.
    fn run(&self, verb: &str, input: &[u8]) -> Result<Option<Vec<u8>>, AuthError> {
        let program = self.program();
        // With a slash it would be another program than one from those directories.
        if program.contains('/') {
            return Err(self.error("has a name that is not allowed".into()));
        }
        let found = self
            .dirs
            .iter()
            .map(|dir| dir.join(&program))
            .find(|path| path.is_file());
        let found = found.ok_or_else(|| {
            self.error("is not installed; install it, or take it out of the file of credentials".into())
        })?;
        let mut child = Command::new(&found)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| self.error(format!("({}) cannot be run: {e}", found.display())))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input shows that by its answer.
            let _ = stdin.write_all(input);
        }
        let output = child
            .wait_with_output()
            .map_err(|e| self.error(format!("cannot be waited for: {e}")))?;
        if output.status.success() {
            return Ok(Some(output.stdout));
        }
        let words = printable(&String::from_utf8_lossy(&output.stdout));
        match words.contains("credentials not found") {
            true => Ok(None),
            false => Err(self.error(format!("failed ({}): {words}", output.status))),
        }
    }
}
