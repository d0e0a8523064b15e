//! Connections: which proxy and which certificates, and what it means when one fails.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig};

use super::hosts::Dial;
use super::http::{HttpOptions, lock};
use super::url::{Url, split_port};
use crate::text::printable;

/// Where Linux distributions keep the certificates they trust, one file with all; the first that exists is read.
const CA_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

/// What connections of one agent have in common: whether they have TLS, how they are made, and the proxy.
type Key = (bool, Arc<Dial>, Option<String>);

/// Agents with their pools of connections.
#[derive(Default)]
pub(super) struct Agents {
    made: Mutex<HashMap<Key, Agent>>,
    certificates: OnceLock<Arc<Vec<Certificate<'static>>>>,
}

/// How a request failed before there was an answer.
pub(super) struct Broken {
    pub(super) reason: String,
    /// Worth another attempt.
    pub(super) transient: bool,
    /// The other end does not speak TLS, or is not there at the port of https.
    pub(super) not_tls: bool,
}

impl Agents {
    /// Breaks every connection of every agent, for ever.
    pub(super) fn shut_down(&self) {
        for agent in lock(&self.made).values() {
            agent.clone().shutdown();
        }
    }

    /// The agent for an address, or what is wrong with the options.
    pub(super) fn get(
        &self,
        url: &Url,
        dial: Option<&Arc<Dial>>,
        options: &HttpOptions,
    ) -> Result<Agent, String> {
        let dial = dial.cloned().unwrap_or_default();
        let proxy = options.proxies.choose(url);
        let mut made = lock(&self.made);
        let key = (url.https, dial.clone(), proxy.map(str::to_owned));
        if let Some(agent) = made.get(&key) {
            return Ok(agent.clone());
        }
        let proxy = match proxy {
            None => None,
            Some(address) => Some(ureq::Proxy::new(address).map_err(|_| {
                // It may hold a password: not shown.
                "the proxy's address is not valid; write http://host:port or socks5://host:port".to_owned()
            })?),
        };
        let connect = dial.timeout.unwrap_or(options.connect_timeout);
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(proxy)
            .user_agent(concat!("strata/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_resolve(Some(connect))
            .timeout_connect(Some(connect))
            .timeout_recv_response(Some(options.response_timeout))
            .timeout_per_read(Some(options.stall_timeout))
            .timeout_per_write(Some(options.stall_timeout));
        if url.https {
            let tls = TlsConfig::builder()
                .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .root_certs(RootCerts::Specific(self.certificates(&dial, options)?))
                .disable_verification(dial.skip_verify)
                .client_cert(client_certificate(&dial.client)?)
                .build();
            config = config.tls_config(tls);
        }
        let agent = config.build().new_agent();
        made.insert(key, agent.clone());
        Ok(agent)
    }

    fn certificates(
        &self,
        dial: &Dial,
        options: &HttpOptions,
    ) -> Result<Arc<Vec<Certificate<'static>>>, String> {
        let common = match self.certificates.get() {
            Some(certificates) => certificates.clone(),
            None => {
                let system = CA_BUNDLES.iter().map(Path::new).find(|path| path.exists());
                let files = options.ca_files.iter().map(PathBuf::as_path);
                let read = certificates_in(system.into_iter().chain(files))?;
                self.certificates.get_or_init(|| Arc::new(read)).clone()
            }
        };
        if dial.ca.is_empty() {
            return Ok(common);
        }
        let mut all = Vec::clone(&common);
        all.extend(certificates_in(dial.ca.iter().map(PathBuf::as_path))?);
        Ok(Arc::new(all))
    }
}

/// The certificate that is shown to a host, and its key.
fn client_certificate(files: &[PathBuf]) -> Result<Option<ClientCert>, String> {
    let [first, ..] = files else { return Ok(None) };
    let (mut certificates, mut key) = (Vec::new(), None);
    for path in files {
        let pem = std::fs::read(path);
        let pem =
            pem.map_err(|e| format!("cannot read the client's certificate in {}: {e}", path.display()))?;
        for item in ureq::tls::parse_pem(&pem) {
            match item {
                Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
                Ok(PemItem::PrivateKey(found)) => key = Some(found),
                _ => {}
            }
        }
    }
    match key {
        Some(key) if !certificates.is_empty() => Ok(Some(ClientCert::new_with_certs(&certificates, key))),
        _ => {
            let needs = "no client's certificate with its key in PEM form";
            Err(format!(
                "{} and what stands beside it hold {needs}",
                first.display()
            ))
        }
    }
}

/// All certificates in files of PEM form.
fn certificates_in<'p>(paths: impl Iterator<Item = &'p Path>) -> Result<Vec<Certificate<'static>>, String> {
    let mut out = Vec::new();
    for path in paths {
        let pem = std::fs::read(path)
            .map_err(|e| format!("cannot read the certificates in {}: {e}", path.display()))?;
        let before = out.len();
        out.extend(ureq::tls::parse_pem(&pem).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        }));
        if out.len() == before {
            return Err(format!("{} holds no certificate in PEM form", path.display()));
        }
    }
    Ok(out)
}

/// What an error of the HTTP library means.
pub(super) fn diagnose(error: ureq::Error, url: &Url) -> Broken {
    let fatal = |reason: String| Broken {
        reason,
        transient: false,
        not_tls: false,
    };
    match error {
        ureq::Error::HostNotFound => fatal("the host's name is not known; check it, and the network".into()),
        ureq::Error::Timeout(_) => {
            let reason = format!("no answer from {} in time", url.authority);
            Broken {
                reason,
                transient: true,
                not_tls: false,
            }
        }
        ureq::Error::Rustls(error) => tls(&error),
        ureq::Error::ConnectProxyFailed(why) => fatal(format!("the proxy refused: {}", printable(&why))),
        ureq::Error::Io(error) => match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(error) => tls(error),
            None => system(&error, url),
        },
        other => fatal(printable(&other.to_string())),
    }
}

fn tls(error: &rustls::Error) -> Broken {
    let (reason, not_tls) = match error {
        rustls::Error::InvalidCertificate(why) => {
            let why = printable(&why.to_string());
            let help = "install the certificate of its authority, or the package ca-certificates";
            (format!("its certificate is not trusted ({why}); {help}"), false)
        }
        // What came is no TLS at all: most likely http.
        rustls::Error::InvalidMessage(_) => {
            let help = "if it speaks plain http, ask for that with --plain-http, or list it as plain_http in the configuration";
            (format!("it does not answer with TLS; {help}"), true)
        }
        other => (format!("TLS failed: {}", printable(&other.to_string())), true),
    };
    Broken {
        reason,
        transient: false,
        not_tls,
    }
}

fn system(error: &io::Error, url: &Url) -> Broken {
    use io::ErrorKind as E;
    if error.kind() == E::ConnectionRefused {
        // Without a port in the name, http would be elsewhere than https.
        let not_tls = split_port(&url.authority).1.is_none();
        let reason = "nothing listens there (connection refused)".to_owned();
        return Broken {
            reason,
            transient: false,
            not_tls,
        };
    }
    let text = error.to_string();
    // The standard library has no kind for what getaddrinfo(3) answers; only its "try again" is worth another try.
    if let Some(why) = text.strip_prefix("failed to lookup address information: ") {
        let transient = why.starts_with("Temporary failure");
        return Broken {
            reason: format!("the host's name cannot be looked up ({})", printable(why)),
            transient,
            not_tls: false,
        };
    }
    let hung_up = [
        E::InvalidData,
        E::UnexpectedEof,
        E::ConnectionReset,
        E::ConnectionAborted,
        E::BrokenPipe,
    ];
    Broken {
        reason: printable(&text),
        transient: true,
        not_tls: hung_up.contains(&error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_exist_is_asked_for_once() {
        let url = Url::parse("https://example.test/").unwrap();
        let lookup = |why| io::Error::other(format!("failed to lookup address information: {why}"));
        assert!(!system(&lookup("Name or service not known"), &url).transient);
        assert!(system(&lookup("Temporary failure in name resolution"), &url).transient);
        // The library's own text, as long as it is what we read.
        let error = std::net::ToSocketAddrs::to_socket_addrs("no-such-host.invalid:1").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("failed to lookup address information: "),
            "{error}"
        );
    }
}
