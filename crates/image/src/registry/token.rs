//! Answers to a registry's challenge: Basic, or a token from the server that a Bearer challenge names
//! (distribution's `spec/auth/token.md` and `oauth.md`).

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{Method, header};

use super::challenge::{Challenge, parse};
use super::error::RegistryError;
use super::hosts::Endpoint;
use super::http::{Answer, Ask, Http, lock};
use super::url::{Url, encode};
use crate::auth::{Credentials, basic};
use crate::config::nullable;
use crate::progress::Progress;

/// Largest answer of a token server in bytes.
const MAX_TOKEN: u64 = 1 << 20;
/// A token's life when its server does not say (the specification's least).
const DEFAULT_LIFE: u64 = 60;

/// What is wanted, and by whom.
pub(crate) struct Want<'a> {
    pub(crate) what: &'a str,
    pub(crate) host: &'a str,
    /// `repository:path:pull`; empty for a login.
    pub(crate) scope: &'a str,
    pub(crate) credentials: Option<&'a Credentials>,
    /// How the host is spoken to; its token server too, if that is the same host.
    pub(crate) via: Option<&'a Endpoint>,
}

/// Values of `Authorization` that are still good, by host and scope.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<(String, String), (String, Instant)>>);

impl Tokens {
    pub(crate) fn get(&self, host: &str, scope: &str) -> Option<String> {
        let tokens = lock(&self.0);
        let (value, end) = tokens.get(&(host.to_owned(), scope.to_owned()))?;
        (Instant::now() < *end).then(|| value.clone())
    }

    /// Answers the challenge of a 401: a value for `Authorization`, kept for the next request.
    pub(crate) fn answer(
        &self,
        http: &Http,
        want: &Want<'_>,
        refusal: &Answer,
        progress: &dyn Progress,
    ) -> Result<Option<String>, RegistryError> {
        let challenges: Vec<Challenge> = refusal
            .headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse)
            .collect();
        let by = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let (value, life) = if let Some(bearer) = by("bearer") {
            let (token, life) = match want.credentials {
                Some(Credentials::Token(token)) => (token.clone(), DEFAULT_LIFE),
                _ => fetch(http, want, bearer, progress)?,
            };
            (format!("Bearer {token}"), life)
        } else if by("basic").is_some() {
            match want.credentials {
                Some(Credentials::Password { username, password }) => (basic(username, password), 3600),
                _ => return Ok(None),
            }
        } else {
            let reason = match challenges.first() {
                Some(other) => format!("it asks for {:?}; only Bearer and Basic are known", other.scheme),
                None => "it refused without saying what it wants".to_owned(),
            };
            return Err(RegistryError::Challenge {
                host: want.host.to_owned(),
                reason,
            });
        };
        // A tenth off, for the time that the next request is under way.
        let end = Instant::now() + Duration::from_secs(life.clamp(1, 86400)).mul_f64(0.9);
        lock(&self.0).insert(
            (want.host.to_owned(), want.scope.to_owned()),
            (value.clone(), end),
        );
        Ok(Some(value))
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default, deserialize_with = "nullable")]
    token: String,
    #[serde(default, deserialize_with = "nullable")]
    access_token: String,
    #[serde(default, deserialize_with = "nullable")]
    expires_in: u64,
}

fn fetch(
    http: &Http,
    want: &Want<'_>,
    bearer: &Challenge,
    progress: &dyn Progress,
) -> Result<(String, u64), RegistryError> {
    let odd = |reason: &str| RegistryError::Challenge {
        host: want.host.to_owned(),
        reason: reason.to_owned(),
    };
    let realm = bearer.get("realm").and_then(Url::parse);
    let realm = realm.ok_or_else(|| odd("it names no address where a token could be had"))?;
    let what = format!("a token for {}", want.what);
    let scopes: Vec<&str> = match bearer.get("scope") {
        Some(scope) => scope.split(' ').filter(|s| !s.is_empty()).collect(),
        None if want.scope.is_empty() => Vec::new(),
        None => vec![want.scope],
    };
    let mut ask = Ask::get(&what, realm);
    ask.via = want.via;
    let service = bearer
        .get("service")
        .map(|s| format!("&service={}", encode(s)))
        .unwrap_or_default();
    if let Some(Credentials::Identity(token)) = want.credentials {
        let mut form = format!("grant_type=refresh_token&client_id=strata{service}");
        form.push_str(&format!(
            "&scope={}&refresh_token={}",
            encode(&scopes.join(" ")),
            encode(token)
        ));
        ask.method = Method::POST;
        ask.form = Some(form);
    } else {
        let mut query = format!("client_id=strata{service}");
        for scope in &scopes {
            query.push_str(&format!("&scope={}", encode(scope)));
        }
        if let Some(Credentials::Password { username, password }) = want.credentials {
            query.push_str(&format!("&account={}", encode(username)));
            ask.authorization = Some(basic(username, password));
        }
        let separator = if ask.url.path.contains('?') { '&' } else { '?' };
        ask.url.path.push(separator);
        ask.url.path.push_str(&query);
    }
    let host = ask.url.authority.clone();
    let answer = http.send(ask, progress)?;
    match answer.status {
        200..=299 => {}
        400 | 401 | 403 => return Err(denied(want, answer.explanation())),
        status => {
            let reason = answer.explanation();
            return Err(RegistryError::Status {
                what,
                host,
                status,
                reason: bracketed(&reason),
            });
        }
    }
    let bytes = answer
        .bytes(MAX_TOKEN)
        .map_err(|e| odd(&format!("its token server broke off: {e}")))?;
    token_in(&bytes).map_err(odd)
}

/// What a token server answered: the token, which can be sent in a header, and how many seconds it lives; or what is wrong with it.
pub fn token_in(answer: &[u8]) -> Result<(String, u64), &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(answer).map_err(|_| "its token server sent something that is no token")?;
    let token = match answer.token.is_empty() {
        true => answer.access_token,
        false => answer.token,
    };
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("its token server sent no token");
    }
    let life = match answer.expires_in {
        0 => DEFAULT_LIFE,
        life => life,
    };
    Ok((token, life))
}

/// The error of a request that was refused for want of rights.
pub(crate) fn denied(want: &Want<'_>, reason: String) -> RegistryError {
    let whom = match want.credentials {
        None => "without a login".to_owned(),
        Some(Credentials::Password { username, .. }) => format!("to {username:?}"),
        Some(_) => "with the saved token".to_owned(),
    };
    let reason = if reason.is_empty() {
        "it says no more".to_owned()
    } else {
        reason
    };
    RegistryError::Denied {
        what: want.what.to_owned(),
        host: want.host.to_owned(),
        whom,
        reason,
    }
}

/// ` (words)`, or nothing.
pub(crate) fn bracketed(words: &str) -> String {
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({words})")
    }
}
