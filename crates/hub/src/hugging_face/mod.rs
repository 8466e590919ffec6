//! Hugging Face's hub, or a server that speaks its protocol.

mod name;
mod pull;
mod select;

pub use name::HuggingFaceName;
pub(crate) use name::is_plain;

use crate::HubError;
use crate::answers::{Checksum, ListedFile, is_commit, parse_next_link, parse_revision, parse_tree};
use crate::http::{Answer, Http, Network, Resource, host, shown};
use crate::reference::is_loopback;
use crate::secret::Secret;
use reqwest::header::HeaderValue;
use sha1::{Digest as _, Sha1};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use url::Url;

/// The hub that everybody means.
pub(crate) const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// A description of a repository lists its files' names.
const REVISION_LIMIT_BYTES: u64 = 16 << 20;
const PAGE_LIMIT_BYTES: u64 = 8 << 20;
const PAGES_MAX: usize = 1_000;
const FILES_MAX: usize = 100_000;
/// Hugging Face takes no file above 10 MB into Git itself; what lies there is fetched whole and then checked.
const GIT_FILE_LIMIT_BYTES: u64 = 32 << 20;

/// A client for one hub.
pub(crate) struct HuggingFace {
    http: Http,
    endpoint: Url,
    authorization: Option<HeaderValue>,
}

impl HuggingFace {
    pub(crate) fn new(endpoint: &str, token: Option<&Secret>, network: &Network) -> Result<Self, HubError> {
        let wrong = |reason| HubError::Setting { setting: "HF_ENDPOINT", reason };
        let mut endpoint =
            Url::parse(endpoint).map_err(|_| wrong("it is no address; it looks like https://huggingface.co"))?;
        let is_safe = endpoint.scheme() == "https" || (endpoint.scheme() == "http" && is_loopback(&endpoint));
        if !is_safe || endpoint.host_str().is_none() {
            return Err(wrong("it must begin with https://; http:// is accepted on this machine itself only"));
        }
        endpoint.set_query(None);
        endpoint.set_fragment(None);
        let authorization = token.map(|token| token.bearer("HF_TOKEN")).transpose()?;
        Ok(Self { http: Http::new(network)?, endpoint, authorization })
    }

    pub(crate) fn http(&self) -> &Http {
        &self.http
    }

    /// The commit that the name's revision means now.
    pub(crate) fn commit(
        &self,
        name: &HuggingFaceName,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<String, HubError> {
        let revision = name.revision.as_deref().unwrap_or("main");
        if is_commit(revision) {
            return Ok(revision.to_owned());
        }
        let url = self.url(&["api/models", &name.repository, "revision"], Some(revision));
        parse_revision(&self.document(name, &url, REVISION_LIMIT_BYTES, go_on)?.body)
    }

    /// All files of a commit.
    pub(crate) fn files(
        &self,
        name: &HuggingFaceName,
        commit: &str,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<ListedFile>, HubError> {
        let wrong = |reason: String| HubError::Answer { what: "the list of files", reason };
        let mut next = self.url(&["api/models", &name.repository, "tree", commit], None);
        next.set_query(Some("recursive=true&expand=false"));
        let mut files = Vec::new();
        let mut paths = BTreeSet::new();
        for _ in 0..PAGES_MAX {
            let page = self.document(name, &next, PAGE_LIMIT_BYTES, go_on)?;
            for file in parse_tree(&page.body)? {
                if !paths.insert(file.path.clone()) {
                    return Err(wrong(format!("`{}` is listed twice", file.path)));
                }
                files.push(file);
            }
            if files.len() > FILES_MAX {
                return Err(wrong(format!("it has more than {FILES_MAX} entries")));
            }
            let Some(link) = page.header("link").and_then(parse_next_link) else { return Ok(files) };
            let url = next.join(link).map_err(|_| wrong("the address of its next page is none".to_owned()))?;
            if url.origin() != self.endpoint.origin() {
                return Err(wrong("its next page lies on another server".to_owned()));
            }
            next = url;
        }
        Err(wrong(format!("it has more than {PAGES_MAX} pages")))
    }

    /// Where the bytes of a file are.
    pub(crate) fn file_url(&self, name: &HuggingFaceName, commit: &str, path: &str) -> Url {
        self.url(&[&name.repository, "resolve", commit, path], None)
    }

    /// The request for the bytes at `url`.
    pub(crate) fn resource<'a>(&'a self, url: &'a Url, size_bytes: Option<u64>) -> Resource<'a> {
        Resource { url, authorization: self.authorization.as_ref(), size_bytes }
    }

    /// The bytes of a file that lies in Git, checked.
    pub(crate) fn git_file(
        &self,
        name: &HuggingFaceName,
        commit: &str,
        file: &ListedFile,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<u8>, HubError> {
        let wrong = |reason: String| name.refused(reason);
        if file.size_bytes > GIT_FILE_LIMIT_BYTES {
            return Err(wrong(format!("`{}` is large and comes without a SHA-256 to check it by", file.path)));
        }
        let url = self.file_url(name, commit, &file.path);
        let body = self.document(name, &url, GIT_FILE_LIMIT_BYTES, go_on)?.body;
        if body.len() as u64 != file.size_bytes {
            return Err(wrong(format!(
                "`{}` has the wrong size, expected {} bytes, got {}; try again",
                file.path,
                file.size_bytes,
                body.len()
            )));
        }
        if file.checksum != Checksum::GitBlob(git_blob_of(&body)) {
            return Err(wrong(format!(
                "`{}` has the wrong content, other than the list of files says; it was not kept, so try again",
                file.path
            )));
        }
        Ok(body)
    }

    /// A refusal as a sentence that says what to do.
    pub(crate) fn explain(&self, name: &HuggingFaceName, error: HubError) -> HubError {
        let HubError::Status { status, code, .. } = &error else { return error };
        let (page, host) = (shown(&self.url(&[&name.repository], None)), host(&self.endpoint));
        let revision = name.revision.as_deref().unwrap_or("main");
        let reason = match (code.as_deref(), status) {
            (Some("GatedRepo"), _) if self.authorization.is_some() => format!(
                "its owner gives it to those only who accept its terms: do so at {page} with the account of your token, then pull again"
            ),
            (Some("GatedRepo"), _) => format!(
                "its owner gives it to those only who accept its terms: do so at {page}, set HF_TOKEN to a token of your account, then pull again"
            ),
            (Some("RevisionNotFound"), _) => {
                format!("it has no revision `{revision}`: check the part after `@`, or leave it out")
            }
            (Some("EntryNotFound"), _) => "a file that its list names is not there: try again later".to_owned(),
            (Some("RepoNotFound") | None, 401 | 404) if self.authorization.is_some() => format!(
                "{host} has no such repository, or your token may not read it: check the name, and that the token in HF_TOKEN is valid for it"
            ),
            (Some("RepoNotFound") | None, 401 | 404) => format!(
                "{host} has no such repository, or it is private: check the name, or set HF_TOKEN to a token that may read it"
            ),
            (_, 401 | 403) => {
                format!("{host} refuses the token in HF_TOKEN: use another that may read it, or unset it")
            }
            _ => return error,
        };
        name.refused(reason)
    }

    fn document(
        &self,
        name: &HuggingFaceName,
        url: &Url,
        limit_bytes: u64,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Answer, HubError> {
        let answer = self.http.get(&self.resource(url, None), limit_bytes, go_on);
        answer.and_then(Answer::success).map_err(|error| self.explain(name, error))
    }

    /// An address below the endpoint. What is not plain is escaped; `/` parts `paths`, but not `last`.
    fn url(&self, paths: &[&str], last: Option<&str>) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(paths.iter().flat_map(|path| path.split('/'))).extend(last);
        }
        url
    }
}

/// Git's name of some bytes as a blob.
fn git_blob_of(bytes: &[u8]) -> [u8; 20] {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hasher.finalize().into()
}
