//! [`Client`]: manifests, blobs and logins of registries.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use store::{Descriptor, Digest};
use ureq::http::{HeaderName, Method, header};

use super::error::RegistryError;
use super::hosts::{Capability, Endpoint};
use super::http::{Answer, Ask, Http, HttpOptions};
use super::mirrors::{Mirrors, Turn};
use super::token::{Tokens, Want, bracketed, denied};
use super::url::Url;
use crate::auth::{AuthFiles, Credentials};
use crate::manifest::{Document, MAX_MANIFEST};
use crate::media;
use crate::progress::{Event, Progress};
use crate::reference::Reference;

pub(super) const DOCKER_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Everything that a client is told instead of reading it from its surroundings.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// How requests are made.
    pub http: HttpOptions,
    /// Credentials for every registry asked, before those of `auth`.
    pub credentials: Option<Credentials>,
    /// Files with saved credentials.
    pub auth: AuthFiles,
    /// Directories in which `<registry>/hosts.toml` says by which hosts a registry is reached; see `docs/images.md`.
    pub hosts: Vec<PathBuf>,
}

/// A client of any number of registries; threads may share it.
pub struct Client {
    pub(super) http: Http,
    pub(super) tokens: Tokens,
    credentials: Option<Credentials>,
    auth: AuthFiles,
    pub(super) hosts: Vec<PathBuf>,
    pub(super) mirrors: Mirrors,
    /// A blob is fetched in ranges.
    pub(super) in_ranges: AtomicBool,
}

/// A manifest or index as it came, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Digest and size of the bytes, and the document's media type.
    pub descriptor: Descriptor,
    /// The document's bytes, which its digest is of.
    pub bytes: Vec<u8>,
    /// What they say.
    pub document: Document,
}

/// A repository's request, for [`Client::ask`].
pub(super) struct Call<'a> {
    pub(super) what: &'a str,
    pub(super) from: &'a Reference,
    pub(super) to: &'a Turn<'a>,
    pub(super) method: Method,
    /// After the repository's name.
    pub(super) path: &'a str,
    pub(super) headers: Vec<(HeaderName, String)>,
}

impl Client {
    /// A client. Nothing is opened or asked yet.
    pub fn new(options: ClientOptions) -> Self {
        Self {
            http: Http::new(options.http),
            tokens: Tokens::default(),
            credentials: options.credentials,
            auth: options.auth,
            hosts: options.hosts,
            mirrors: Mirrors::default(),
            in_ranges: AtomicBool::new(false),
        }
    }

    /// Breaks off every request under way, in other threads too. The client is of no use afterwards.
    pub fn abort(&self) {
        self.http.abort();
    }

    /// Fetches the manifest or index that a name stands for; `expected` is what an index says of it.
    ///
    /// # Errors
    /// [`RegistryError`]; a name with a digest, or an expectation, that the bytes do not meet is one.
    pub fn manifest(
        &self,
        reference: &Reference,
        expected: Option<&Descriptor>,
        progress: &dyn Progress,
    ) -> Result<FetchedManifest, RegistryError> {
        let digest = expected.map(|e| e.digest).or(reference.digest().copied());
        let capability = match digest {
            Some(_) => Capability::Pull,
            None => Capability::Resolve,
        };
        self.by_turns(reference, capability, None, progress, |turn| {
            self.manifest_from(&turn, reference, expected, progress)
        })
    }

    fn manifest_from(
        &self,
        turn: &Turn<'_>,
        reference: &Reference,
        expected: Option<&Descriptor>,
        progress: &dyn Progress,
    ) -> Result<FetchedManifest, RegistryError> {
        let host = turn.via.base.authority.as_str();
        let retries = if turn.last { self.http.options.retries } else { 0 };
        let what = match expected {
            None => format!("image {reference}"),
            Some(expected) => format!("manifest {} of {reference}", expected.digest),
        };
        let wanted = expected.map(|e| e.digest).or(reference.digest().copied());
        let path = format!("manifests/{}", version(reference, wanted));
        let mut tries = 0;
        let (bytes, announced, header_digest) = loop {
            let answer = self.ask(
                Call {
                    what: &what,
                    from: reference,
                    to: turn,
                    method: Method::GET,
                    path: &path,
                    headers: vec![(header::ACCEPT, media::ACCEPT_MANIFESTS.to_owned())],
                },
                progress,
            )?;
            let announced = answer.header(header::CONTENT_TYPE).map(str::to_owned);
            let digest = answer
                .header(DOCKER_DIGEST)
                .and_then(|d| d.parse::<Digest>().ok());
            match answer.bytes(MAX_MANIFEST) {
                Ok(bytes) => break (bytes, announced, digest),
                Err(error) => {
                    let reason = crate::text::printable(&error.to_string());
                    if tries >= retries || self.http.aborted() {
                        return Err(RegistryError::Unreachable {
                            what,
                            host: host.to_owned(),
                            reason,
                        });
                    }
                    self.http.pause(&what, host, &reason, tries, None, progress)?;
                    tries += 1;
                }
            }
        };
        let got = Digest::of(&bytes);
        let host = || host.to_owned();
        if let Some(expected) = wanted.or(header_digest).filter(|expected| *expected != got) {
            return Err(RegistryError::Digest {
                what,
                host: host(),
                expected,
                got,
            });
        }
        if let Some(size) = expected
            .map(|e| e.size)
            .filter(|size| *size != bytes.len() as u64)
        {
            return Err(RegistryError::Size {
                what,
                host: host(),
                expected: size,
                got: bytes.len() as u64,
            });
        }
        let announced = expected
            .map(|e| e.media_type.clone())
            .filter(|t| !t.is_empty())
            .or(announced);
        let document =
            Document::parse(&bytes, announced.as_deref()).map_err(|source| RegistryError::Manifest {
                what,
                host: host(),
                source,
            })?;
        let media_type = document.media_type().to_owned();
        let descriptor = Descriptor {
            media_type,
            digest: got,
            size: bytes.len() as u64,
        };
        Ok(FetchedManifest {
            descriptor,
            bytes,
            document,
        })
    }

    /// The digest that a name stands for now, without fetching (registries count fetches, not this); `None` where
    /// the registry does not tell.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn resolve(
        &self,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{}", version(reference, reference.digest().copied()));
        self.by_turns(reference, Capability::Resolve, None, progress, |turn| {
            let call = Call {
                what: &format!("image {reference}"),
                from: reference,
                to: &turn,
                method: Method::HEAD,
                path: &path,
                headers: vec![(header::ACCEPT, media::ACCEPT_MANIFESTS.to_owned())],
            };
            let answer = self.ask(call, progress)?;
            Ok(answer.header(DOCKER_DIGEST).and_then(|d| d.parse().ok()))
        })
    }

    /// Whether a registry takes these credentials: `true` when it asked for them, `false` when it lets anybody in.
    ///
    /// # Errors
    /// [`RegistryError::Denied`] when it does not take them.
    pub fn check_login(
        &self,
        domain: &str,
        credentials: &Credentials,
        progress: &dyn Progress,
    ) -> Result<bool, RegistryError> {
        let own = self.own_endpoint(domain)?;
        let want = Want {
            what: "access",
            host: &own.base.authority,
            scope: "",
            credentials: Some(credentials),
            via: Some(&own),
        };
        let url = own.url("", domain);
        let ask = || Ask {
            via: Some(&own),
            ..Ask::get(want.what, url.clone())
        };
        let answer = self.http.send(ask(), progress)?;
        if answer.status != 401 {
            return self.finish(&want, answer).map(|_| false);
        }
        let authorization = self.tokens.answer(&self.http, &want, &answer, progress)?;
        let answer = self.http.send(
            Ask {
                authorization,
                ..ask()
            },
            progress,
        )?;
        self.finish(&want, answer).map(|_| true)
    }

    /// A request to a repository, with the credentials that its registry asks for.
    pub(super) fn ask(&self, call: Call<'_>, progress: &dyn Progress) -> Result<Answer, RegistryError> {
        let via = call.to.via;
        let host = via.base.authority.as_str();
        let scope = format!("repository:{}:pull", call.from.path());
        let url = via.url(&format!("{}/{}", call.from.path(), call.path), call.from.domain());
        let ask = |authorization| Ask {
            method: call.method.clone(),
            headers: call.headers.clone(),
            authorization,
            via: Some(via),
            patient: call.to.last,
            ..Ask::get(call.what, url.clone())
        };
        let answer = self.http.send(ask(self.tokens.get(host, &scope)), progress)?;
        let mut want = Want {
            what: call.what,
            host,
            scope: &scope,
            credentials: None,
            via: Some(via),
        };
        if answer.status != 401 || !answer.url.same_origin(&url) {
            return self.finish(&want, answer);
        }
        let credentials = self.credentials_for(call.from, via, progress)?;
        want.credentials = credentials.as_ref();
        let Some(value) = self.tokens.answer(&self.http, &want, &answer, progress)? else {
            return Err(denied(&want, answer.explanation()));
        };
        self.finish(&want, self.http.send(ask(Some(value)), progress)?)
    }

    /// The saved credentials; trouble with a helper program is told and does not keep from public images.
    pub(super) fn credentials_for(
        &self,
        reference: &Reference,
        via: &Endpoint,
        progress: &dyn Progress,
    ) -> Result<Option<Credentials>, RegistryError> {
        if let Some(given) = self.credentials.as_ref().filter(|_| via.own) {
            return Ok(Some(given.clone()));
        }
        // What is meant for a registry is not told to those that stand in for it.
        let domain = if via.own {
            reference.domain()
        } else {
            &via.base.authority
        };
        let found = self.auth.find(domain, reference.path())?;
        for trouble in &found.troubles {
            progress.event(&Event::Note { text: trouble });
        }
        Ok(found.credentials)
    }

    pub(super) fn finish(&self, want: &Want<'_>, answer: Answer) -> Result<Answer, RegistryError> {
        if answer.success() {
            return Ok(answer);
        }
        let (status, host, what) = (answer.status, answer.url.authority.clone(), want.what.to_owned());
        let reason = answer.explanation();
        Err(match status {
            401 | 403 => denied(want, reason),
            404 => RegistryError::NotFound {
                what,
                host,
                reason: bracketed(&reason),
            },
            _ => RegistryError::Status {
                what,
                host,
                status,
                reason: bracketed(&reason),
            },
        })
    }

    /// Where this client looks for credentials.
    pub fn auth_files(&self) -> &AuthFiles {
        &self.auth
    }

    /// A GET of any address, with no credential; for what is not in a registry.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn download(
        &self,
        url: &str,
        progress: &dyn Progress,
    ) -> Result<impl Read + Send + use<>, RegistryError> {
        let parsed = Url::parse(url);
        let parsed =
            parsed.ok_or_else(|| RegistryError::Setup(format!("{url:?} is no http or https address")))?;
        let host = parsed.authority.clone();
        let answer = self.http.send(Ask::get("the file", parsed), progress)?;
        match answer.success() {
            true => Ok(answer.body.into_reader()),
            false => Err(RegistryError::Status {
                what: url.to_owned(),
                host,
                status: answer.status,
                reason: String::new(),
            }),
        }
    }
}

/// What follows `manifests/`.
pub(super) fn version(reference: &Reference, wanted: Option<Digest>) -> String {
    match (wanted, reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or(crate::reference::DEFAULT_TAG).to_owned(),
    }
}
