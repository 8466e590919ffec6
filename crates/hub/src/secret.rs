//! Tokens and passwords.

use crate::HubError;
use reqwest::header::HeaderValue;
use std::fmt;

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

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
