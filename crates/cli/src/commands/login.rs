//! `strata login`: a registry's user and password, tried and kept.

use std::io::{IsTerminal, Read, Write};
use std::path::PathBuf;

use clap::Args;
use engine::login::RegistryError;

use super::{Context, Outcome, print};
use crate::failure::Failure;
use crate::registries;

/// Log in to a registry
///
/// Name and password are tried, then kept where docker and podman find them too.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// The registry [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// User
    #[arg(short, long, value_name = "USER")]
    username: Option<String>,
    /// Password (others see it in the list of processes: better is --password-stdin)
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Speak to the registry without TLS (a loopback address needs no asking)
    #[arg(long)]
    plain_http: bool,
}

pub(crate) fn run(context: &Context, args: LoginArgs) -> Outcome {
    let registry = args.registry.as_deref().unwrap_or("docker.io");
    let username = match args.username {
        Some(name) => name,
        None if args.password_stdin => {
            return Err(Failure::user("--password-stdin needs a user").hint("name one with -u USER"));
        }
        None => ask("Username: ", false)?,
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => {
            let mut text = String::new();
            std::io::stdin()
                .take(64 << 10)
                .read_to_string(&mut text)
                .map_err(|e| Failure::user(format!("cannot read the password: {e}")))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask("Password: ", true)?,
    };
    let options = registries::options(&context.settings, args.plain_http.then_some(registry));
    let file = login_file()?;
    engine::login::login(
        options,
        registry,
        &username,
        &password,
        &file,
        &engine::progress::Silent,
    )
    .map_err(|error| match error {
        // Elsewhere the way out is to log in.
        RegistryError::Denied { .. } => Failure::from(error).hint("check the user's name and the password"),
        error => error.into(),
    })?;
    print(|out| writeln!(out, "Login succeeded, and is kept in {}", file.display()))
}

/// Where passwords are kept.
pub(super) fn login_file() -> Result<PathBuf, Failure> {
    registries::login_file().ok_or_else(|| {
        Failure::user("there is no place to keep a password").hint("set HOME or REGISTRY_AUTH_FILE")
    })
}

/// Asks on the terminal; a secret is not shown while it is typed.
fn ask(what: &str, secret: bool) -> Result<String, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        return Err(Failure::user(format!(
            "there is no terminal to ask for {}",
            what.trim_end_matches([':', ' '])
        ))
        .hint("give -u USER and --password-stdin"));
    }
    let mut err = std::io::stderr();
    let _ = write!(err, "{what}").and_then(|()| err.flush());
    let read = || {
        let mut line = String::new();
        input
            .read_line(&mut line)
            .map(|_| line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let answer = match secret {
        false => read(),
        true => {
            let hidden = crate::password::Hidden::on(&input);
            let answer = read();
            drop(hidden);
            let _ = writeln!(err);
            answer
        }
    };
    answer.map_err(|e| Failure::user(format!("cannot read from the terminal: {e}")))
}
