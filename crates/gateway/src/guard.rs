//! What every request passes before a handler sees it: the Host header, the origin, the key, and an id on the way out.

use crate::refusal::Refusal;
use crate::server::Shared;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use std::net::IpAddr;
use std::sync::Arc;

/// On every response, for logs and for reports of errors.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Random digits behind a prefix, for ids.
pub(crate) fn random_id(prefix: &str) -> Result<String, Refusal> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| Refusal::Internal)?;
    Ok(format!("{prefix}{:032x}", u128::from_be_bytes(random)))
}

/// Puts an id on the response.
pub(crate) async fn request_id(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(id) = random_id("req_")
        && let Ok(id) = HeaderValue::from_str(&id)
    {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Refuses requests that were meant for another host. A page that points its own name at this machine's address (DNS
/// rebinding) is told apart by that name.
pub(crate) async fn host(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let good = match (hosts.next(), hosts.next()) {
        (Some(host), None) => authority(host).is_some_and(|host| shared.hosts.allow(&host)),
        _ => false,
    };
    // `GET http://name/path` names a host as well, and it would lead.
    let target = request.uri().authority().is_none_or(|authority| shared.hosts.allow(authority));
    if good && target { next.run(request).await } else { Refusal::Host.into_response() }
}

/// Refuses what a browser sends for a page of another site.
pub(crate) async fn origin(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let good = headers.get_all(header::ORIGIN).iter().all(|origin| {
        shared.options.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
            || is_same_site(origin, headers)
    });
    if good { next.run(request).await } else { Refusal::Origin.into_response() }
}

/// Refuses requests without the key.
pub(crate) async fn key(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let credentials = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let candidate = credentials.and_then(|credentials| {
        let (scheme, key) = credentials.split_at_checked(b"bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key.trim_ascii())
    });
    match candidate {
        None => Refusal::NoKey.into_response(),
        Some(candidate) if !shared.key.matches(candidate) => Refusal::WrongKey.into_response(),
        Some(_) => next.run(request).await,
    }
}

/// The hosts that a server answers to.
pub(crate) struct Hosts {
    names: Vec<String>,
    address: Option<IpAddr>,
}

impl Hosts {
    /// Names in any case, and the address that the server listens on, if it is a certain one.
    pub(crate) fn new(names: &[String], address: Option<IpAddr>) -> Self {
        let names = names.iter().map(|name| name.trim_end_matches('.').to_ascii_lowercase()).collect();
        Self { names, address: address.filter(|address| !address.is_unspecified()) }
    }

    fn allow(&self, authority: &Authority) -> bool {
        let host = authority.host();
        let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = literal.parse::<IpAddr>() {
            let address = address.to_canonical();
            if address.is_loopback() || self.address == Some(address) {
                return true;
            }
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        name == "localhost" || self.names.contains(&name)
    }
}

fn authority(value: &HeaderValue) -> Option<Authority> {
    let authority: Authority = value.to_str().ok()?.parse().ok()?;
    (!authority.as_str().contains('@')).then_some(authority)
}

/// Whether `origin` is the site that the request went to, by whatever scheme a proxy in front speaks.
fn is_same_site(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let (Ok(origin), Some(Ok(host))) = (origin.to_str(), headers.get(header::HOST).map(HeaderValue::to_str)) else {
        return false;
    };
    let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    site.is_some_and(|site| site.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let hosts = Hosts::new(&["Box.Example.".into(), "10.0.0.7".into()], Some([192, 168, 1, 5].into()));
        for (host, allowed) in [
            ("localhost", true),
            ("LOCALHOST:4114", true),
            ("localhost.:4114", true),
            ("127.0.0.1:4114", true),
            ("127.9.9.9", true),
            ("[::1]:4114", true),
            ("[::ffff:127.0.0.1]", true),
            ("box.example:80", true),
            ("192.168.1.5:4114", true),
            ("10.0.0.7", true),
            ("192.168.1.6", false),
            ("localhost.evil.example", false),
            ("evil.example", false),
            ("evil@localhost", false),
            ("localhost@evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("2130706433", false),
            ("0.0.0.0", false),
            ("", false),
            ("local host", false),
        ] {
            let value = HeaderValue::from_static(host);
            assert_eq!(authority(&value).is_some_and(|host| hosts.allow(&host)), allowed, "{host}");
        }
    }

    #[test]
    fn sites() {
        for (origin, host, same) in [
            ("http://localhost:4114", "localhost:4114", true),
            ("https://box.example", "box.example", true),
            ("http://localhost:3000", "localhost:4114", false),
            ("http://evil.example", "localhost:4114", false),
            ("null", "localhost:4114", false),
            ("file://localhost:4114", "localhost:4114", false),
        ] {
            let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]);
            assert_eq!(is_same_site(&HeaderValue::from_static(origin), &headers), same, "{origin}");
        }
    }
}
