//! HTTP as registries need it: https or, where that is allowed, plain http; redirects that carry no secret to another
//! host; retries that wait as long as they are told to.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ureq::http::{HeaderMap, Method, Request, Response, header};
use ureq::{Body, SendBody};

use super::agent::{Agents, Broken, diagnose};
use super::error::RegistryError;
use super::hosts::Endpoint;
use super::proxy::Proxies;
use super::ranges::Ranges;
use super::url::{Url, is_loopback};
use crate::progress::{Event, Progress};
use crate::text::printable;

const MAX_REDIRECTS: usize = 10;
/// Most bytes read of an answer that only explains an error.
const MAX_EXPLANATION: u64 = 64 << 10;

/// How requests are made.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Proxies by address.
    pub proxies: Proxies,
    /// Files of certificates (PEM) that are trusted besides the system's.
    pub ca_files: Vec<PathBuf>,
    /// Hosts, as they stand in image names, for which plain http may be used where https does not answer.
    /// This machine always may.
    pub plain_http: Vec<String>,
    /// Longest wait for a connection (TLS included).
    pub connect_timeout: Duration,
    /// Longest wait for an answer to begin.
    pub response_timeout: Duration,
    /// Longest pause within an answer; then the connection counts as broken.
    pub stall_timeout: Duration,
    /// How often a failed request is made again. A download that makes progress starts counting anew.
    pub retries: u32,
    /// First pause before a retry; it doubles each time, up to 30 s.
    pub backoff: Duration,
    /// Longest pause that a registry may ask for (`Retry-After`).
    pub longest_wait: Duration,
    /// Blobs up to this many bytes are sent in one piece, larger ones in pieces of so many.
    pub upload_piece: u64,
    /// When a blob is fetched by several connections.
    pub ranges: Ranges,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            proxies: Proxies::default(),
            ca_files: Vec::new(),
            plain_http: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            response_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            retries: 5,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(120),
            upload_piece: 64 << 20,
            ranges: Ranges::default(),
        }
    }
}

/// A request.
pub(crate) struct Ask<'a> {
    /// What is asked for, for errors.
    pub(crate) what: &'a str,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    /// Value of `Authorization`, kept from every other origin.
    pub(crate) authorization: Option<String>,
    /// A form to post.
    pub(crate) form: Option<String>,
    /// How the host is spoken to, where something is said of it; nothing of that goes to another origin.
    pub(crate) via: Option<&'a Endpoint>,
    /// Made again as often as the options say. Otherwise once: there is another host to ask.
    pub(crate) patient: bool,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(what: &'a str, url: Url) -> Self {
        Self {
            what,
            method: Method::GET,
            url,
            headers: Vec::new(),
            authorization: None,
            form: None,
            via: None,
            patient: true,
        }
    }
}

/// An answer, its body unread.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
    /// Where it came from in the end.
    pub(crate) url: Url,
}

impl Answer {
    pub(crate) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The pause that the registry asks for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.header(header::RETRY_AFTER).and_then(retry_after)
    }

    /// The body, at most `max` bytes of it and one more.
    pub(crate) fn bytes(self, max: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        self.body.into_reader().take(max + 1).read_to_end(&mut out)?;
        Ok(out)
    }

    /// What the registry says of its error, or nothing.
    pub(crate) fn explanation(self) -> String {
        explained(&self.bytes(MAX_EXPLANATION).unwrap_or_default())
    }
}

/// What the body of a refusal says (OCI distribution-spec, "Error Codes"), as one line, or nothing.
pub fn explained(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let first = &value["errors"][0];
    let texts = [
        &first["code"],
        &first["message"],
        &value["details"],
        &value["error_description"],
    ];
    let words: Vec<&str> = texts
        .iter()
        .filter_map(|t| t.as_str())
        .filter(|t| !t.is_empty())
        .collect();
    printable(&words.join(": "))
}

pub(crate) struct Http {
    pub(crate) options: HttpOptions,
    agents: Agents,
    /// Hosts that were found to speak plain http.
    plain: Mutex<HashMap<String, bool>>,
    aborted: AtomicBool,
}

impl Http {
    pub(crate) fn new(options: HttpOptions) -> Self {
        Self {
            options,
            agents: Agents::default(),
            plain: Mutex::default(),
            aborted: AtomicBool::new(false),
        }
    }

    /// Breaks every connection; requests under way and to come fail.
    pub(crate) fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
        self.agents.shut_down();
    }

    pub(crate) fn aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// The address of a path on a registry's host: https, or plain http where that is allowed and https is not
    /// spoken (asked once, with nothing secret). The path begins with a slash.
    pub(crate) fn url(&self, host: &str, path: &str) -> Result<Url, RegistryError> {
        let url = |https: bool, path: &str| {
            let scheme = if https { "https" } else { "http" };
            Url::parse(&format!("{scheme}://{host}{path}")).ok_or_else(|| {
                RegistryError::Setup(format!(
                    "{host:?} is not a registry's host name with an optional port"
                ))
            })
        };
        if !self.may_be_plain(host) {
            return url(true, path);
        }
        let known = lock(&self.plain).get(host).copied();
        let plain = match known {
            Some(plain) => plain,
            None => {
                let plain = self
                    .once(&Ask::get("", url(true, "/v2/")?))
                    .is_err_and(|broken| broken.not_tls);
                lock(&self.plain).insert(host.to_owned(), plain);
                plain
            }
        };
        url(!plain, path)
    }

    /// Makes a request, follows its redirects, and makes it again as long as that may help.
    pub(crate) fn send(&self, ask: Ask<'_>, progress: &dyn Progress) -> Result<Answer, RegistryError> {
        let retries = if ask.patient { self.options.retries } else { 0 };
        let mut tries = 0;
        loop {
            let host = ask.url.authority.clone();
            let (reason, after) = match self.follow(&ask)? {
                Ok(answer) if !matches!(answer.status, 408 | 429 | 500 | 502 | 503 | 504) => {
                    return Ok(answer);
                }
                Ok(answer) => {
                    let after = answer.retry_after();
                    let too_long = after.is_some_and(|after| after > self.options.longest_wait);
                    if answer.status == 429 && (too_long || tries >= retries) {
                        return Err(RegistryError::TooManyRequests {
                            what: ask.what.to_owned(),
                            host,
                            after,
                        });
                    }
                    if too_long || tries >= retries {
                        return Ok(answer);
                    }
                    (format!("the registry answered {}", answer.status), after)
                }
                Err(broken) if !broken.transient || tries >= retries => {
                    let reason = broken.reason;
                    return Err(RegistryError::Unreachable {
                        what: ask.what.to_owned(),
                        host,
                        reason,
                    });
                }
                Err(broken) => (broken.reason, None),
            };
            self.pause(ask.what, &host, &reason, tries, after, progress)?;
            tries += 1;
        }
    }

    /// Waits before the next attempt.
    pub(crate) fn pause(
        &self,
        what: &str,
        host: &str,
        reason: &str,
        tries: u32,
        after: Option<Duration>,
        progress: &dyn Progress,
    ) -> Result<(), RegistryError> {
        let doubled = self
            .options
            .backoff
            .saturating_mul(1 << tries.min(16))
            .min(Duration::from_secs(30));
        // A quarter more or less, so that many clients turned away at once do not come back at once.
        let spread = f64::from(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.subsec_nanos()) % 1000);
        let after = after
            .unwrap_or(doubled)
            .max(doubled.mul_f64(0.75 + spread / 2000.0));
        progress.event(&Event::Retrying {
            what: &format!("{what} from {host}"),
            reason,
            after,
        });
        let end = Instant::now() + after;
        loop {
            if self.aborted() {
                return Err(RegistryError::Aborted {
                    what: what.to_owned(),
                });
            }
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_millis(50))),
                _ => return Ok(()),
            }
        }
    }

    /// One request with its redirects. A credential goes to no other origin than the one it is meant for.
    fn follow(&self, ask: &Ask<'_>) -> Result<Result<Answer, Broken>, RegistryError> {
        let what = || ask.what.to_owned();
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let host = url.authority.clone();
            let via = ask.via.filter(|via| url.same_origin(&via.base));
            // One whose address was written with `http://` was meant so.
            if !url.https && via.is_none() && !self.may_be_plain(&host) {
                return Err(RegistryError::PlainHttp { what: what(), host });
            }
            let authorization = ask.authorization.clone().filter(|_| url.same_origin(&ask.url));
            let hop = Ask {
                what: ask.what,
                method: ask.method.clone(),
                url: url.clone(),
                headers: ask.headers.clone(),
                authorization,
                form: ask.form.clone(),
                via,
                patient: ask.patient,
            };
            let answer = match self.once(&hop) {
                Err(broken) => {
                    if self.aborted() {
                        return Err(RegistryError::Aborted { what: what() });
                    }
                    return Ok(Err(broken));
                }
                Ok(answer) => answer,
            };
            let location = match answer.status {
                301 | 302 | 303 | 307 | 308 if ask.form.is_none() => answer.header(header::LOCATION),
                _ => return Ok(Ok(answer)),
            };
            let Some(next) = location.and_then(|location| url.join(location)) else {
                let reason = "it redirects to no address that can be asked".to_owned();
                return Err(RegistryError::Redirect {
                    what: what(),
                    host,
                    reason,
                });
            };
            url = next;
        }
        let reason = format!("it redirected more than {MAX_REDIRECTS} times");
        Err(RegistryError::Redirect {
            what: what(),
            host: ask.url.authority.clone(),
            reason,
        })
    }

    /// One request, no redirect.
    fn once(&self, ask: &Ask<'_>) -> Result<Answer, Broken> {
        self.once_with(ask, None)
    }

    /// The same with a body of so many bytes, which nobody sends again.
    pub(super) fn once_with(
        &self,
        ask: &Ask<'_>,
        body: Option<(&mut dyn Read, u64)>,
    ) -> Result<Answer, Broken> {
        let broken = |reason: String| Broken {
            reason,
            transient: false,
            not_tls: false,
        };
        let dial = ask.via.map(|via| &via.dial);
        let agent = self.agents.get(&ask.url, dial, &self.options).map_err(broken)?;
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(ask.url.to_string());
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        for (name, value) in ask.via.iter().flat_map(|via| &via.headers) {
            // A login that the registry asked for goes before one that the file has.
            if *name != header::AUTHORIZATION || ask.authorization.is_none() {
                request = request.header(name, value);
            }
        }
        if let Some(authorization) = &ask.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        if ask.form.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let answer = match (&ask.form, body) {
            (Some(form), _) => request.body(form.as_str()).map(|request| agent.run(request)),
            (None, Some((body, length))) => request
                .header(header::CONTENT_LENGTH, length)
                .body(SendBody::from_reader(body))
                .map(|request| agent.run(request)),
            (None, None) => request.body(()).map(|request| agent.run(request)),
        };
        match answer {
            Ok(Ok(answer)) => {
                let (parts, body) = Response::into_parts(answer);
                Ok(Answer {
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    body,
                    url: ask.url.clone(),
                })
            }
            Ok(Err(error)) => Err(diagnose(error, &ask.url)),
            // A header value that cannot be sent, such as a password with a line break.
            Err(error) => Err(broken(format!("the request cannot be made: {error}"))),
        }
    }

    fn may_be_plain(&self, host: &str) -> bool {
        is_loopback(host)
            || self
                .options
                .plain_http
                .iter()
                .any(|h| h.eq_ignore_ascii_case(host))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?;
    let seconds = date.timestamp().as_second() - jiff::Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let later = retry_after("Fri, 31 Dec 2100 23:59:59 GMT").unwrap();
        assert!(later > Duration::from_secs(86400));
        assert_eq!(retry_after("soon"), None);
    }
}
