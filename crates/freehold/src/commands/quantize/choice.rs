//! The types of single tensors, chosen by hand.

use freehold_base::Dtype;
use freehold_model::Mix;
use regex_automata::hybrid::regex::Regex;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// `PATTERN=TYPE`.
#[derive(Clone)]
pub(super) struct Choice {
    text: String,
    pattern: Arc<Regex>,
    dtype: Dtype,
}

impl Choice {
    /// Whether the pattern finds the name.
    pub(super) fn is_of(&self, tensor: &str) -> bool {
        self.pattern.is_match(&mut self.pattern.create_cache(), tensor)
    }

    pub(super) fn dtype(&self) -> Dtype {
        self.dtype
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, name) = text.rsplit_once('=').ok_or("write it as PATTERN=TYPE, such as `ffn_down=q6_k`")?;
        let pattern = Regex::new(pattern).map_err(|error| format!("`{pattern}` is no regular expression: {error}"))?;
        let types = || [Dtype::F32].into_iter().chain(Mix::ALL.map(|mix| mix.dtype));
        let dtype = types().find(|dtype| dtype.to_string().eq_ignore_ascii_case(name)).ok_or_else(|| {
            let mut names: Vec<String> = types().map(|dtype| dtype.to_string()).collect();
            names.dedup();
            format!("`{name}` is none of the types: {}", names.join(", "))
        })?;
        Ok(Self { text: text.to_owned(), pattern: pattern.into(), dtype })
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
