//! OCI registries, by the distribution specification 1.1.
//!
//! A client of our own rather than the `oci-client` crate's: that one lets nobody decide about redirects, reads manifests
//! and tokens of any length, is asynchronous, and brings some twenty crates for what is a handful of requests over the
//! HTTP that is here already.

mod credentials;
mod name;
mod pull;
mod push;

use credentials::find_credentials;
pub use name::{RegistryName, Version};
pub use push::Pushed;

use crate::HubError;
use crate::answers::{Challenge, parse_challenge, parse_token};
use crate::http::{Answer, Failure, Http, Network, Resource, host};
use crate::options::Options;
use crate::reference::is_loopback;
use crate::secret::Secret;
use freehold_base::Digest;
use reqwest::Method;
use reqwest::blocking::RequestBuilder;
use reqwest::header::{ACCEPT, HeaderValue, WWW_AUTHENTICATE};
use std::ops::ControlFlow;
use std::time::Duration;
use url::Url;

const MANIFEST_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// What registries take at least, and the store at most.
const MANIFEST_LIMIT_BYTES: u64 = 4 << 20;
const TOKEN_LIMIT_BYTES: u64 = 1 << 20;
/// Explanations of refusals are not read beyond this.
const REFUSAL_LIMIT_BYTES: u64 = 1 << 20;
/// Longest time that one piece of a blob may take to be sent.
const SENDING: Duration = Duration::from_secs(300);

/// What is to be done in a repository.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Pull,
    Push,
}

/// A client for one repository of one registry.
struct Registry<'a> {
    http: Http,
    base: Url,
    name: &'a RegistryName,
    access: Access,
    /// `USER:PASSWORD` in base64, where the user has any for the registry.
    credentials: Option<Secret>,
    authorization: Option<HeaderValue>,
}

impl<'a> Registry<'a> {
    fn new(name: &'a RegistryName, access: Access, options: &Options) -> Result<Self, HubError> {
        let network = Network::from_environment(options);
        Ok(Self {
            http: Http::new(&network)?,
            base: name.base().ok_or_else(|| name.refused("its host is no address"))?,
            name,
            access,
            credentials: find_credentials(&options.registry_credentials, name),
            authorization: None,
        })
    }

    /// An address in the repository.
    fn url(&self, kind: &str, what: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("/v2/{}/{kind}/{what}", self.name.repository));
        url
    }

    fn resource<'r>(&'r self, url: &'r Url, size_bytes: Option<u64>) -> Resource<'r> {
        Resource { url, authorization: self.authorization.as_ref(), size_bytes }
    }

    /// Asks, and where the registry wants to know who asks, asks again with what it wants.
    fn ask(
        &mut self,
        method: &Method,
        url: &Url,
        limit_bytes: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
        build: &dyn Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, HubError> {
        let mut is_renewed = false;
        loop {
            let resource = self.resource(url, None);
            let mut attempt = || self.http.send(build(self.http.request(method.clone(), &resource)), url, limit_bytes);
            let answer = if method.is_idempotent() {
                self.http.persist(go_on, &mut attempt)?
            } else {
                match attempt() {
                    Ok(answer) => answer,
                    Err(Failure::Passing(error) | Failure::Final(error)) => return Err(error),
                }
            };
            if answer.status != 401 || is_renewed {
                return Ok(answer);
            }
            let challenges = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
            let Some(challenge) = challenges.filter_map(parse_challenge).next() else { return Ok(answer) };
            self.authorize(&challenge, go_on)?;
            is_renewed = true;
        }
    }

    fn authorize(&mut self, challenge: &Challenge, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<(), HubError> {
        let basic = self.credentials.as_ref().map(|secret| secret.authorization("Basic", "the registry's password"));
        let basic = basic.transpose()?;
        let Challenge::Bearer { realm, service } = challenge else {
            self.authorization = basic;
            return Ok(());
        };
        let wrong = |reason: &str| HubError::Answer { what: "the place to get a token", reason: reason.to_owned() };
        let mut url = Url::parse(realm).map_err(|_| wrong("it is no address"))?;
        // A registry on this machine itself is asked without TLS; its password must not leave the machine so.
        let may_be_plain = self.name.is_plain_http || (self.base.scheme() == "http" && is_loopback(&url));
        let is_safe = url.scheme() == "https" || (url.scheme() == "http" && may_be_plain);
        if !is_safe {
            return Err(wrong("it is not as well protected as the registry"));
        }
        self.http.lead(&self.base, &url)?;
        let actions = if self.access == Access::Push { "pull,push" } else { "pull" };
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:{actions}", self.name.repository));
        let resource = Resource { url: &url, authorization: basic.as_ref(), size_bytes: None };
        let answer = self.http.get(&resource, TOKEN_LIMIT_BYTES, go_on)?;
        let answer = answer.success().map_err(|error| self.explain(error))?;
        self.authorization = Some(parse_token(&answer.body)?.bearer("the registry's token")?);
        Ok(())
    }

    /// The manifest that is meant, and its digest.
    fn manifest(&mut self, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<(Digest, Vec<u8>), HubError> {
        let url = self.url("manifests", &self.name.version.to_string());
        let answer = self.ask(&Method::GET, &url, MANIFEST_LIMIT_BYTES, go_on, &|request| {
            request.header(ACCEPT, MANIFEST_MEDIA_TYPE)
        })?;
        let answer = answer.success().map_err(|error| self.explain(error))?;
        let digest = Digest::of(&answer.body);
        let announced = answer.header("Docker-Content-Digest").and_then(|text| text.parse().ok());
        let expected = match self.name.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => announced,
        };
        match expected {
            Some(expected) if expected != digest => Err(HubError::Answer {
                what: "the manifest",
                reason: format!("it was to be {expected} and is {digest}"),
            }),
            _ => Ok((digest, answer.body)),
        }
    }

    /// A refusal as a sentence that says what to do.
    fn explain(&self, error: HubError) -> HubError {
        let HubError::Status { status, .. } = &error else { return error };
        let host = host(&self.base);
        let has = if self.credentials.is_some() { "the password that is kept for it" } else { "anybody" };
        let reason = match status {
            401 | 403 if self.access == Access::Push => {
                format!(
                    "{host} does not let {has} write there: log in to it with `docker login`, `podman login` or `oras login`"
                )
            }
            401 | 403 => format!(
                "{host} does not let {has} read it: log in to it with `docker login`, `podman login` or `oras login`"
            ),
            404 => format!("{host} has no such model: check the name and the tag"),
            _ => return error,
        };
        self.name.refused(reason)
    }
}
