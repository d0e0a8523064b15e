//! How registries are reached: what the environment says of proxies, certificates and kept passwords.

use std::ffi::OsString;
use std::path::PathBuf;

use engine::pull::{AuthFiles, HttpOptions, Proxies, Registries};

use crate::config::Settings;

/// Where `hosts.toml` files lie unless the configuration says otherwise.
const HOSTS: &str = "/etc/strata/certs.d";

/// The environment's values; a function, so that tests have one of their own.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Everything a client of registries is told; `plain` are names that are spoken to without TLS on this call.
pub(crate) fn options(settings: &Settings, plain: Option<&str>) -> Registries {
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let plain_http = settings
        .registries
        .plain_http
        .iter()
        .map(String::as_str)
        .chain(plain)
        .map(str::to_owned);
    Registries {
        http: HttpOptions {
            proxies: proxies(&env),
            ca_files: env("SSL_CERT_FILE").map(PathBuf::from).into_iter().collect(),
            plain_http: plain_http.collect(),
            ..HttpOptions::default()
        },
        credentials: None,
        auth: auth(&env, settings.user),
        hosts: vec![settings.registries.hosts.clone().unwrap_or_else(|| HOSTS.into())],
    }
}

/// The file in which `login` keeps passwords: docker's own, which podman looks into too.
pub(crate) fn login_file() -> Option<PathBuf> {
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    env("REGISTRY_AUTH_FILE")
        .map(PathBuf::from)
        .or_else(|| docker_file(&env))
}

fn docker_file(env: Env<'_>) -> Option<PathBuf> {
    let dir = env("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env("HOME")?).join(".docker")));
    Some(dir?.join("config.json"))
}

/// Files with passwords in podman's order, and the directories of helper programs.
fn auth(env: Env<'_>, uid: u32) -> AuthFiles {
    let programs = env("PATH")
        .map(|path| std::env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Some(file) = env("REGISTRY_AUTH_FILE") {
        return AuthFiles {
            read: vec![file.into()],
            programs,
        };
    }
    let runtime = env("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime
        .map(|dir| dir.join("containers"))
        .unwrap_or_else(|| format!("/run/containers/{uid}").into());
    let config = env("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config
        .or_else(|| Some(PathBuf::from(env("HOME")?).join(".config")))
        .map(|dir| dir.join("containers"));
    let podman = [Some(runtime), config]
        .into_iter()
        .flatten()
        .map(|dir| dir.join("auth.json"));
    AuthFiles {
        read: podman.chain(docker_file(env)).collect(),
        programs,
    }
}

fn proxies(env: Env<'_>) -> Proxies {
    let text = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| env(name))
            .and_then(|value| value.into_string().ok())
    };
    let every = text(&["all_proxy", "ALL_PROXY"]);
    Proxies {
        // HTTP_PROXY in capitals may be a header of a CGI request, set by anyone: it is not looked at (httpoxy).
        http: text(&["http_proxy"]).or_else(|| every.clone()),
        https: text(&["https_proxy", "HTTPS_PROXY"]).or(every),
        no_proxy: text(&["no_proxy", "NO_PROXY"])
            .map(|list| {
                list.split(',')
                    .map(|part| part.trim().to_owned())
                    .filter(|part| !part.is_empty())
                    .collect()
            })
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_looked_for_where_the_peers_keep_them() {
        let env = |name: &str| match name {
            "HOME" => Some("/h".into()),
            "PATH" => Some("/bin:/sbin".into()),
            _ => None,
        };
        let files = auth(&env, 0);
        let expected = [
            "/run/containers/0/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
        ];
        assert_eq!(files.read, expected.map(PathBuf::from));
        assert_eq!(files.programs, ["/bin", "/sbin"].map(PathBuf::from));
        let env = |name: &str| (name == "REGISTRY_AUTH_FILE").then(|| "/a".into());
        assert_eq!(auth(&env, 0).read, [PathBuf::from("/a")]);
        let env = |name: &str| (name == "DOCKER_CONFIG").then(|| "/d".into());
        assert_eq!(docker_file(&env), Some("/d/config.json".into()));
    }

    #[test]
    fn proxies_have_their_usual_names() {
        let env = |name: &str| match name {
            "HTTP_PROXY" => Some("http://evil".into()),
            "HTTPS_PROXY" => Some("http://p:1".into()),
            "NO_PROXY" => Some("a.b, 10.0.0.0/8,".into()),
            _ => None,
        };
        let proxies = proxies(&env);
        assert_eq!(
            (proxies.http, proxies.https.as_deref()),
            (None, Some("http://p:1"))
        );
        assert_eq!(proxies.no_proxy, ["a.b", "10.0.0.0/8"]);
    }
}
