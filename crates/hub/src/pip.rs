//! Asking the user's `pip` where a package is: it knows their index, proxy, certificates and credentials.
//!
//! pip is only ever asked for wheels, and never to install: source packages would run code.

use crate::HubError;
use crate::http::{Network, stopped};
use crate::options::Options;
use crate::progress::{Status, Watch};
use crate::reference::{Package, normalize};
use freehold_base::Digest;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;
use url::Url;

/// Largest answer that is read; a report holds each package's description.
const OUTPUT_LIMIT_BYTES: u64 = 64 << 20;
const POLL: Duration = Duration::from_millis(20);

/// Given to every command that looks for packages.
const WHEELS_ONLY: [&str; 6] = [
    "--no-deps",
    "--only-binary=:all:",
    "--ignore-requires-python",
    "--quiet",
    "--no-input",
    "--disable-pip-version-check",
];

/// What is worth telling of pip's long complaints about the network. What stands first says more.
const NETWORK_REASONS: [&str; 8] = [
    "Cannot connect to proxy",
    "certificate verify failed",
    "Temporary failure in name resolution",
    "Name or service not known",
    "Network is unreachable",
    "No route to host",
    "Connection refused",
    "timed out",
];

/// A way to call pip.
pub(crate) struct Pip {
    candidates: Vec<Vec<OsString>>,
}

/// Where pip finds a package's wheel.
#[derive(Clone, Debug)]
pub(crate) struct Wheel {
    pub(crate) url: Url,
    /// What the index, or pip itself, says that it hashes to.
    pub(crate) digest: Option<Digest>,
}

struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: String,
}

impl Pip {
    /// `chosen` if the user chose one, else the usual ways to call pip, tried in order.
    pub(crate) fn new(chosen: Option<&Path>) -> Self {
        let candidates = match chosen {
            Some(path) => vec![vec![path.as_os_str().to_owned()]],
            None => [&["pip"][..], &["pip3"], &["python3", "-m", "pip"], &["python", "-m", "pip"]]
                .iter()
                .map(|words| words.iter().map(OsString::from).collect())
                .collect(),
        };
        Self { candidates }
    }

    /// Asks where the wheels of `packages` are, in order.
    pub(crate) fn locate(&self, packages: &[Package], watch: &mut Watch<'_>) -> Result<Vec<Wheel>, HubError> {
        let mut arguments: Vec<OsString> =
            ["install", "--dry-run", "--ignore-installed", "--report", "-"].map(OsString::from).into();
        arguments.extend(WHEELS_ONLY.map(OsString::from));
        arguments.extend(packages.iter().map(|package| package.to_string().into()));
        let output = self.run(&arguments, packages, watch)?;
        read_report(&output.stdout, packages)
    }

    /// Lets pip itself download a package's wheel into `directory`.
    pub(crate) fn download(
        &self,
        package: &Package,
        directory: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<PathBuf, HubError> {
        let mut arguments: Vec<OsString> = vec!["download".into(), "--dest".into(), directory.into()];
        arguments.extend(WHEELS_ONLY.map(OsString::from));
        arguments.push(package.to_string().into());
        self.run(&arguments, std::slice::from_ref(package), watch)?;
        let entries = directory.read_dir().map_err(HubError::io(directory))?;
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension() == Some(OsStr::new("whl")))
            .ok_or_else(|| HubError::package(package, "pip downloaded no wheel"))
    }

    /// The certificates and the proxy that pip is configured with. If pip cannot tell, none.
    pub(crate) fn network(&self, options: &Options, watch: &mut Watch<'_>) -> Result<Network, HubError> {
        let arguments = ["config", "list", "--disable-pip-version-check"].map(OsString::from);
        let settings = match self.run(&arguments, &[], watch) {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) if error.is_final() => return Err(error),
            Err(_) => String::new(),
        };
        let mut network = Network::from_environment(options);
        // Lines such as `global.proxy='http://…'`; settings from the environment, which win, come first.
        for line in settings.lines() {
            let Some((key, value)) = line.split_once('=') else { continue };
            let value = value.trim().trim_matches(['\'', '"']);
            match key.rsplit('.').next() {
                Some("cert") => network.certificates.push(value.into()),
                Some("proxy") if network.proxy.is_none() => network.proxy = Some(value.to_owned()),
                _ => {}
            }
        }
        network.certificates.sort();
        network.certificates.dedup();
        Ok(network)
    }

    fn run(&self, arguments: &[OsString], packages: &[Package], watch: &mut Watch<'_>) -> Result<Output, HubError> {
        let shown = packages.iter().map(Package::to_string).collect::<Vec<_>>().join(", ");
        for candidate in &self.candidates {
            let mut command = Command::new(&candidate[0]);
            command.args(&candidate[1..]).args(arguments);
            let output = match run(&mut command, &shown, watch)? {
                Ok(output) => output,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(HubError::Pip { packages: shown, reason: error.to_string() }),
            };
            if output.status.success() {
                return Ok(output);
            }
            // A version manager's stand-in for a pip that is not there, or a Python without it.
            if output.status.code() == Some(127) || output.stderr.contains("No module named pip") {
                continue;
            }
            return Err(complaint(shown, &output.stderr));
        }
        Err(HubError::NoPip)
    }
}

/// Runs to the end, or until `watch` stops it. The inner error is that of starting it.
fn run(command: &mut Command, shown: &str, watch: &mut Watch<'_>) -> Result<Result<Output, io::Error>, HubError> {
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => return Ok(Err(error)),
    };
    let read_all = |stream: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stream) = stream {
                // What it says beyond the limit is read and dropped, so that it does not block.
                stream.by_ref().take(OUTPUT_LIMIT_BYTES).read_to_end(&mut bytes).ok();
                io::copy(&mut stream, &mut io::sink()).ok();
            }
            bytes
        })
    };
    let stdout = read_all(child.stdout.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let stderr = read_all(child.stderr.take().map(|stream| Box::new(stream) as Box<dyn Read + Send>));
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        if let Err(error) = stopped(watch(&Status::resolving(if shown.is_empty() { "pip's settings" } else { shown })))
        {
            child.kill().ok();
            child.wait().ok();
            return Err(error);
        }
        thread::sleep(POLL);
    };
    // A reader that panicked has nothing to tell.
    let stdout = stdout.join().unwrap_or_default();
    let stderr = String::from_utf8_lossy(&stderr.join().unwrap_or_default()).into_owned();
    Ok(Ok(Output { status, stdout, stderr }))
}

/// pip's complaint in one sentence.
fn complaint(packages: String, stderr: &str) -> HubError {
    // pip warns of each attempt to connect, and then says only that it found nothing.
    let network = stderr.lines().find(|line| {
        ["Retrying (", "NewConnectionError", "Max retries exceeded", "ConnectTimeout", "SSLError", "ProxyError"]
            .iter()
            .any(|sign| line.contains(sign))
    });
    if let Some(line) = network {
        let reason = NETWORK_REASONS.into_iter().find(|reason| line.contains(reason));
        let reason = reason.map_or_else(|| shorten(line), str::to_owned);
        return HubError::NoNetwork { host: "the package index through pip".to_owned(), reason };
    }
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = lines.iter().find(|line| line.starts_with("ERROR:")).or(lines.last());
    let reason = error.map_or_else(|| "it gave no reason".to_owned(), |line| shorten(line));
    HubError::Pip { packages, reason }
}

fn shorten(line: &str) -> String {
    line.trim_start_matches("ERROR: ").trim_start_matches("WARNING: ").chars().take(300).collect()
}

/// The parts of pip's installation report (version 1) that are of interest.
#[derive(Deserialize)]
struct Report {
    install: Vec<Installation>,
}

#[derive(Deserialize)]
struct Installation {
    download_info: DownloadInfo,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    #[serde(default)]
    archive_info: ArchiveInfo,
}

#[derive(Default, Deserialize)]
struct ArchiveInfo {
    #[serde(default)]
    hashes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    version: String,
}

fn read_report(stdout: &[u8], packages: &[Package]) -> Result<Vec<Wheel>, HubError> {
    // Some versions print a line of their own before the report.
    let start = stdout.iter().position(|byte| *byte == b'{').unwrap_or(0);
    let report: Report = serde_json::from_slice(&stdout[start..]).map_err(|error| HubError::Pip {
        packages: packages.iter().map(Package::to_string).collect::<Vec<_>>().join(", "),
        reason: format!("its report cannot be read ({error}); pip 23 or newer is needed"),
    })?;
    packages
        .iter()
        .map(|package| {
            let item = report
                .install
                .iter()
                .find(|item| normalize(&item.metadata.name) == package.normalized_name())
                .ok_or_else(|| HubError::package(package, "pip's report does not list it"))?;
            if item.metadata.version != package.version {
                return Err(HubError::package(package, format!("pip found version {} instead", item.metadata.version)));
            }
            let url = Url::parse(&item.download_info.url)
                .ok()
                .filter(|url| matches!(url.scheme(), "https" | "http" | "file"))
                .ok_or_else(|| HubError::package(package, "pip gives it an address that cannot be fetched from"))?;
            let digest = match item.download_info.archive_info.hashes.get("sha256") {
                Some(hex) => {
                    Some(hex.parse().map_err(|_| HubError::package(package, "pip gives it a digest that is none"))?)
                }
                None => None,
            };
            Ok(Wheel { url, digest })
        })
        .collect()
}
