//! Tokens and passwords, and addresses that hold some.

use crate::HubError;
use reqwest::header::HeaderValue;
use std::fmt;
use url::Url;

/// Text that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text without the space around it; `None` where nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    /// `Bearer …`. `setting` is where the text came from.
    pub(crate) fn bearer(&self, setting: &'static str) -> Result<HeaderValue, HubError> {
        self.authorization("Bearer", setting)
    }

    /// `SCHEME …`.
    pub(crate) fn authorization(&self, scheme: &str, setting: &'static str) -> Result<HeaderValue, HubError> {
        let mut value = HeaderValue::from_str(&format!("{scheme} {}", self.0))
            .map_err(|_| HubError::Setting { setting, reason: "it holds characters that no token has; set it anew" })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What stands in an address for what is not kept of it.
const LEFT_OUT: &str = "…";

/// Reads an address for people and for the store: without what may be a secret. That is the user and the password, and the
/// whole query, which is where places that store files have their tokens and signatures. Other text stays as it is.
pub(crate) fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| *scheme != "file") else {
        return text.to_owned();
    };
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (path, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority.to_owned(), |(_, host)| format!("{LEFT_OUT}@{host}"));
    let path = path.split_once('?').map_or(path.to_owned(), |(path, _)| format!("{path}?{LEFT_OUT}"));
    format!("{scheme}://{host}{path}{fragment}")
}

/// Whether an address has lost something to [`without_secrets`].
pub(crate) fn lacks_secrets(url: &Url) -> bool {
    let left_out = percent_encode(LEFT_OUT);
    url.username() == left_out || url.query() == Some(&left_out)
}

fn percent_encode(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
