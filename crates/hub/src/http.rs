//! HTTP: downloads that go on after a break, and small documents.

use crate::HubError;
use crate::options::Options;
use crate::reach::{Guard, TOO_FAR_INSIDE};
use crate::reference::is_loopback;
use freehold_store::{BlobWriter, StoreError};
use reqwest::blocking::{Client, ClientBuilder, RequestBuilder, Response};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Certificate, Method, Proxy, StatusCode, redirect};
use std::env;
use std::fs;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use url::Url;

/// A small document may take so many times [`Options::patience`].
const DOCUMENT_PATIENCE: u32 = 5;
/// New bytes of a file without which neither an attempt nor a time of [`Options::patience`] counts as progress: a server
/// that sends a byte now and then would hold us for ever.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Attempts in a row without progress before a download is given up.
const ATTEMPTS: u32 = 4;
/// Where nobody tells a file's size, the disk is asked for room for so much at a time.
const STEP_BYTES: u64 = 64 << 20;
const REDIRECTS: usize = 10;
const CHUNK_BYTES: usize = 256 << 10;

/// How this machine reaches the network, beyond what the system and the usual proxy variables say.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    /// Files with further certificates of authorities to trust, in PEM.
    pub(crate) certificates: Vec<PathBuf>,
    /// A proxy that takes the place of those in the environment.
    pub(crate) proxy: Option<String>,
    /// As in [`Options`].
    retry_wait: Duration,
    patience: Duration,
    unknown_size_limit_bytes: u64,
}

impl Network {
    /// With the certificates that Python's tools are told of in the environment: where a company's own authority has to
    /// be trusted, it is usually set there.
    pub(crate) fn from_environment(options: &Options) -> Self {
        let certificates = ["PIP_CERT", "REQUESTS_CA_BUNDLE"].iter().filter_map(env::var_os).map(PathBuf::from);
        Self {
            certificates: certificates.collect(),
            proxy: None,
            retry_wait: options.retry_wait,
            patience: options.patience,
            unknown_size_limit_bytes: options.unknown_size_limit_bytes,
        }
    }
}

pub(crate) struct Http {
    client: Client,
    /// For servers on this machine itself: a proxy would look for them on its own, and hear tokens that go unprotected
    /// because they were not to leave the machine.
    direct: Client,
    guard: Arc<Guard>,
    retry_wait: Duration,
    patience: Duration,
    unknown_size_limit_bytes: u64,
}

/// Hears how many bytes there are and how many there will be.
pub(crate) type Report<'r> = dyn FnMut(u64, Option<u64>) -> ControlFlow<()> + 'r;

/// What to fetch, and as whom.
#[derive(Clone, Copy)]
pub(crate) struct Resource<'a> {
    pub(crate) url: &'a Url,
    /// Goes to the host of `url` alone: a redirect to another host is followed without it.
    pub(crate) authorization: Option<&'a HeaderValue>,
    /// What the bytes must number, where known.
    pub(crate) size_bytes: Option<u64>,
}

/// A small document, or a refusal.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Where it came from in the end.
    url: Url,
}

impl Answer {
    /// The answer if it is no refusal.
    pub(crate) fn success(self) -> Result<Self, HubError> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(refusal(self.status, &self.url, &self.headers)) }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// How one attempt failed.
pub(crate) enum Failure {
    /// Another attempt may do better.
    Passing(HubError),
    Final(HubError),
}

impl<E: Into<HubError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

impl Http {
    pub(crate) fn new(network: &Network) -> Result<Self, HubError> {
        // The product's one TLS provider. An error says that it, or another that the program chose, is installed already.
        rustls::crypto::ring::default_provider().install_default().ok();
        let certificates = extra_certificates(&network.certificates);
        let guard = Arc::new(Guard::new());
        let builder = || {
            Client::builder()
                .user_agent(concat!("freehold/", env!("CARGO_PKG_VERSION")))
                .timeout(network.patience)
                .connect_timeout(Duration::from_secs(30))
                .redirect(redirect_policy(Arc::clone(&guard)))
                // It would tell the next server the query of the last address, and what is secret in it.
                .referer(false)
                .dns_resolver(Arc::clone(&guard))
                .tls_certs_merge(certificates.clone())
        };
        let mut proxied = builder();
        if let Some(proxy) = &network.proxy {
            let proxy = Proxy::all(proxy).map_err(|error| HubError::NoNetwork {
                host: "the proxy that pip is configured with".to_owned(),
                reason: reason_of(&error),
            })?;
            proxied = proxied.proxy(proxy);
        }
        let build = |builder: ClientBuilder| {
            builder.build().map_err(|error| HubError::NoNetwork {
                host: "any server over TLS".to_owned(),
                reason: reason_of(&error),
            })
        };
        Ok(Self {
            client: build(proxied)?,
            direct: build(builder().no_proxy())?,
            guard,
            retry_wait: network.retry_wait,
            patience: network.patience,
            unknown_size_limit_bytes: network.unknown_size_limit_bytes,
        })
    }

    /// Refuses that the server at `from` names `to` as a place to ask, if that lies further inside.
    pub(crate) fn lead(&self, from: &Url, to: &Url) -> Result<(), HubError> {
        self.guard.lead([from], to).map_err(|reason| misled(from, reason))
    }

    /// Fills `writer` from where it is on.
    pub(crate) fn download(
        &self,
        resource: &Resource<'_>,
        writer: &mut BlobWriter<'_>,
        report: &mut Report<'_>,
    ) -> Result<(), HubError> {
        let mut attempts = 0;
        let mut etag = None;
        // Of all attempts: a server that has bytes dropped and sent again must not look like one that goes on.
        let mut furthest = writer.length();
        loop {
            let error = match self.attempt(resource, writer, &mut etag, report) {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => error,
            };
            let is_progress = writer.length() >= furthest.saturating_add(PROGRESS_BYTES);
            attempts = if is_progress { 0 } else { attempts + 1 };
            furthest = furthest.max(writer.length());
            if attempts >= ATTEMPTS {
                return Err(error);
            }
            self.wait(attempts, &mut || report(writer.length(), resource.size_bytes))?;
        }
    }

    /// A document of at most `limit_bytes`, or the refusal of it. A server out of order is asked again.
    pub(crate) fn get(
        &self,
        resource: &Resource<'_>,
        limit_bytes: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Answer, HubError> {
        self.persist(go_on, &mut || self.send(self.request(Method::GET, resource), resource.url, limit_bytes))
    }

    /// Asks again while that may help.
    pub(crate) fn persist(
        &self,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
        attempt: &mut dyn FnMut() -> Result<Answer, Failure>,
    ) -> Result<Answer, HubError> {
        let mut attempts = 0;
        let until = Instant::now() + self.patience * DOCUMENT_PATIENCE;
        loop {
            stopped(go_on())?;
            attempts += 1;
            match attempt() {
                Ok(answer) => return Ok(answer),
                Err(Failure::Passing(_)) if attempts < ATTEMPTS && Instant::now() < until => {}
                Err(Failure::Passing(error) | Failure::Final(error)) => return Err(error),
            }
            self.wait(attempts, go_on)?;
        }
    }

    /// A request that is not sent yet.
    pub(crate) fn request(&self, method: Method, resource: &Resource<'_>) -> RequestBuilder {
        let client = if is_loopback(resource.url) { &self.direct } else { &self.client };
        let request = client.request(method, resource.url.clone()).header(ACCEPT_ENCODING, "identity");
        match resource.authorization {
            Some(authorization) => request.header(AUTHORIZATION, authorization.clone()),
            None => request,
        }
    }

    /// Sends a request once and reads its answer.
    pub(crate) fn send(&self, request: RequestBuilder, url: &Url, limit_bytes: u64) -> Result<Answer, Failure> {
        let mut response = request.send().map_err(|error| request_failure(url, &error))?;
        let (status, headers, from) = (response.status(), response.headers().clone(), response.url().clone());
        if is_passing(status) {
            return Err(Failure::Passing(refusal(status.as_u16(), &from, &headers)));
        }
        let begun = Instant::now();
        let mut body = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            match response.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => body.extend_from_slice(&buffer[..count]),
                Err(error) => return Err(Failure::Passing(broken_off(url, &reason_of(&error)))),
            }
            if body.len() as u64 > limit_bytes {
                let reason = format!("it is longer than the {limit_bytes} bytes that are read of it");
                return Err(Failure::Final(HubError::Answer { what: "a document", reason }));
            }
            if begun.elapsed() >= self.patience * DOCUMENT_PATIENCE {
                return Err(Failure::Final(too_slow(url, body.len() as u64, begun.elapsed())));
            }
        }
        Ok(Answer { status: status.as_u16(), headers, body, url: from })
    }

    fn wait(&self, attempts: u32, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<(), HubError> {
        let until = Instant::now() + self.retry_wait * (1 << attempts.saturating_sub(1));
        while Instant::now() < until {
            stopped(go_on())?;
            thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    fn attempt(
        &self,
        resource: &Resource<'_>,
        writer: &mut BlobWriter<'_>,
        etag: &mut Option<HeaderValue>,
        report: &mut Report<'_>,
    ) -> Result<(), Failure> {
        let Resource { url, size_bytes, .. } = *resource;
        stopped(report(writer.length(), size_bytes))?;
        if (size_bytes == Some(writer.length()) && writer.length() > 0) || writer.is_whole() {
            return Ok(());
        }
        let offset = writer.length();
        let mut request = self.request(Method::GET, resource);
        if offset > 0 {
            request = request.header(RANGE, format!("bytes={offset}-"));
            if let Some(etag) = etag {
                request = request.header(IF_RANGE, etag.clone());
            }
        }
        let response = request.send().map_err(|error| request_failure(url, &error))?;
        let total = match response.status() {
            StatusCode::PARTIAL_CONTENT => match content_range(&response) {
                Some((Some(start), total)) if start == offset => total,
                // Not the bytes that were asked for: nothing that follows can be trusted to fit.
                _ => {
                    writer.restart()?;
                    return Err(Failure::Passing(broken_off(url, "the server sent another part than asked for")));
                }
            },
            StatusCode::RANGE_NOT_SATISFIABLE if offset > 0 => {
                if matches!(content_range(&response), Some((None, Some(total))) if total == offset) {
                    return Ok(());
                }
                writer.restart()?;
                return Err(Failure::Passing(broken_off(url, "the server has fewer bytes than arrived before")));
            }
            status if status.is_success() => {
                // The server does not continue files, or the file changed: all of it comes.
                if offset > 0 {
                    writer.restart()?;
                }
                response.content_length()
            }
            status => {
                let error = refusal(status.as_u16(), response.url(), response.headers());
                return Err(if is_passing(status) { Failure::Passing(error) } else { Failure::Final(error) });
            }
        };
        if let (Some(expected), Some(got)) = (size_bytes, total)
            && expected != got
        {
            return Err(Failure::Final(StoreError::WrongSize { what: shown(url), expected, got }.into()));
        }
        if let Some(total) = total {
            writer.reserve(total)?;
        }
        // A weak tag does not promise the same bytes, so it is no ground to continue on.
        *etag = response.headers().get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).cloned();
        self.receive(resource, response, total, writer, report)
    }

    fn receive(
        &self,
        resource: &Resource<'_>,
        mut response: Response,
        total: Option<u64>,
        writer: &mut BlobWriter<'_>,
        report: &mut Report<'_>,
    ) -> Result<(), Failure> {
        let url = resource.url;
        let is_unbounded = total.or(resource.size_bytes).is_none();
        let mut room = writer.length();
        let (mut since, mut before) = (Instant::now(), writer.length());
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            if is_unbounded && writer.length() >= room {
                room = writer.length().saturating_add(STEP_BYTES);
                writer.reserve(room)?;
            }
            match response.read(&mut buffer) {
                Ok(0) if total.is_none_or(|total| writer.length() >= total) => return Ok(()),
                Ok(0) => return Err(Failure::Passing(broken_off(url, "the connection ended early"))),
                Ok(count) => writer.write(&buffer[..count])?,
                Err(error) => return Err(Failure::Passing(broken_off(url, &reason_of(&error)))),
            }
            if is_unbounded && writer.length() > self.unknown_size_limit_bytes {
                writer.restart()?;
                let limit_bytes = self.unknown_size_limit_bytes;
                return Err(Failure::Final(HubError::UnknownSize { what: shown(url), limit_bytes }));
            }
            if since.elapsed() >= self.patience {
                let bytes = writer.length() - before;
                if bytes < PROGRESS_BYTES {
                    return Err(Failure::Passing(too_slow(url, bytes, since.elapsed())));
                }
                (since, before) = (Instant::now(), writer.length());
            }
            stopped(report(writer.length(), total))?;
        }
    }
}

/// A refusal that another attempt may not meet.
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn refusal(status: u16, url: &Url, headers: &HeaderMap) -> HubError {
    let code = headers.get("X-Error-Code").and_then(|code| code.to_str().ok()).filter(|code| !code.is_empty());
    HubError::Status {
        host: host(url),
        path: url.path().to_owned(),
        status,
        code: code.map(|code| code.chars().take(80).collect()),
    }
}

pub(crate) fn stopped(flow: ControlFlow<()>) -> Result<(), HubError> {
    if flow.is_break() { Err(StoreError::Cancelled.into()) } else { Ok(()) }
}

/// (first byte, size of the whole) of a `Content-Range`: `bytes 5-9/10`, `bytes */10`.
fn content_range(response: &Response) -> Option<(Option<u64>, Option<u64>)> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let start = match range {
        "*" => None,
        range => Some(range.split_once('-')?.0.trim().parse().ok()?),
    };
    Some((start, total.trim().parse().ok()))
}

fn request_failure(url: &Url, error: &reqwest::Error) -> Failure {
    let reason = reason_of(error);
    if error.is_redirect() || reason == TOO_FAR_INSIDE {
        return Failure::Final(misled(url, &reason));
    }
    // Settings are not mended by trying again; a refused or lost connection may be.
    if error.is_builder() || reason.contains("certificate") {
        return Failure::Final(HubError::NoNetwork { host: host(url), reason });
    }
    if error.is_connect() || error.is_timeout() {
        return Failure::Passing(HubError::NoNetwork { host: host(url), reason });
    }
    Failure::Passing(broken_off(url, &reason))
}

fn broken_off(url: &Url, reason: &str) -> HubError {
    HubError::BrokenOff { what: shown(url), reason: reason.to_owned() }
}

fn misled(url: &Url, reason: &str) -> HubError {
    HubError::Misled { host: host(url), reason: reason.to_owned() }
}

fn too_slow(url: &Url, bytes: u64, time: Duration) -> HubError {
    HubError::TooSlow { what: shown(url), bytes, seconds: time.as_secs() }
}

/// The innermost reason: outer ones repeat the address, which may hold credentials.
pub(crate) fn reason_of(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if error.source().is_none() {
        return error.to_string();
    }
    innermost.to_string()
}

/// The host, with its port where that is not the scheme's own.
pub(crate) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The address without credentials and query, either of which may be a secret.
pub(crate) fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), host(url), url.path())
}

fn redirect_policy(guard: Arc<Guard>) -> redirect::Policy {
    redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS {
            return attempt.error("there are too many redirects");
        }
        let Some(first) = attempt.previous().first() else { return attempt.follow() };
        if first.scheme() == "https" && attempt.url().scheme() != "https" {
            return attempt.error("it leads from https to an unprotected address");
        }
        match guard.lead(attempt.previous(), attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(reason) => attempt.error(reason),
        }
    })
}

/// Certificates of the given files. One that cannot be read is skipped: the connection will say what is missing.
fn extra_certificates(files: &[PathBuf]) -> Vec<Certificate> {
    files
        .iter()
        .filter_map(|file| fs::read(file).ok())
        .filter_map(|pem| Certificate::from_pem_bundle(&pem).ok())
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Http, Network, Resource};
    use crate::HubError;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;
    use std::ops::ControlFlow;
    use std::thread;
    use std::time::Duration;
    use url::Url;

    /// A proxy stands in for the public network: it answers for every server.
    #[test]
    fn servers_outside_do_not_lead_inside() {
        for (location, is_followed) in [
            ("http://second.example/", true),
            ("http://192.0.2.1/", true),
            ("http://127.0.0.1:1/", false),
            ("http://localhost:1/", false),
            ("http://10.0.0.1/", false),
            ("http://169.254.169.254/latest", false),
            ("http://[::ffff:169.254.169.254]/", false),
            ("http://2130706433/", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let proxy = format!("http://{}", listener.local_addr().unwrap());
            thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let lines = BufReader::new(&stream).lines().map_while(Result::ok);
                    let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                    let answer = match request[0].contains("http://first.example/") {
                        true => format!("302 x\r\nLocation: {location}\r\nContent-Length: 0\r\n"),
                        false => "200 x\r\nContent-Length: 0\r\n".to_owned(),
                    };
                    stream.write_all(format!("HTTP/1.1 {answer}Connection: close\r\n\r\n").as_bytes()).unwrap();
                }
            });
            let network = Network {
                certificates: Vec::new(),
                proxy: Some(proxy),
                retry_wait: Duration::ZERO,
                patience: Duration::from_secs(60),
                unknown_size_limit_bytes: 0,
            };
            let url = Url::parse("http://first.example/").unwrap();
            let resource = Resource { url: &url, authorization: None, size_bytes: None };
            let answer = Http::new(&network).unwrap().get(&resource, 1000, &mut || ControlFlow::Continue(()));
            match answer {
                Ok(answer) => assert!(is_followed && answer.status == 200, "{location}"),
                Err(HubError::Misled { host, .. }) => assert!(!is_followed && host == "first.example", "{location}"),
                Err(error) => panic!("{location}: {error}"),
            }
        }
    }
}
