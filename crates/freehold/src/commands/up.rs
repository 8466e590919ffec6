//! `freehold up`.

use crate::cli::EngineArguments;
use crate::home::Home;
use crate::{models, output};
use anyhow::{Result, anyhow, bail};
use freehold_gateway::{AdminKey, EngineBackend, Gateway, ModelInfo};
use serde_json::json;
use std::io::{ErrorKind, IsTerminal as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

#[derive(clap::Args)]
#[command(after_help = "Example: freehold up qwen2.5-coder:0.5b --address 127.0.0.1:8080")]
pub(crate) struct Options {
    /// A model of the store, or where to fetch it from [default: the catalogue's, smollm2:135m].
    model: Option<String>,
    /// Where to listen. Other machines reach it only where this is an address of theirs to reach.
    #[arg(long, default_value = "127.0.0.1:4114", value_parser = socket_address)]
    address: SocketAddr,
    /// A further name under which clients may call this server. May be given several times.
    #[arg(long = "allow-host", value_name = "HOST")]
    allowed_hosts: Vec<String>,
    /// A web page's origin that may call it from a browser. May be given several times.
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    allowed_origins: Vec<String>,
    #[command(flatten)]
    engine: EngineArguments,
}

impl Options {
    pub(crate) fn run(self, home: &Home, json: bool) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        // First of all, so that a busy port is known before a model is fetched and loaded.
        let listener = runtime.block_on(self.listen())?;
        let address = listener.local_addr()?;
        let key = AdminKey::load_or_create(&home.key_file())?;
        let secret = key.reveal().to_owned();

        let opened = models::open(home, self.model.as_deref())?;
        let (engine, text) = self.engine.start(home, &opened)?;
        let info = ModelInfo {
            id: opened.label(),
            digest: opened.entry.digest.to_string(),
            numerics: engine.numerics().to_owned(),
            context_length: engine.context_length(),
            vocabulary_size: engine.config().vocabulary,
            created: 0,
            owned_by: "freehold".to_owned(),
            licence: (!opened.entry.facts.licenses.is_empty()).then(|| opened.entry.facts.licenses.join(", ")),
            sampling: ModelInfo::DEFAULT_SAMPLING,
        };
        let is_unnamed = self.allowed_hosts.is_empty();
        let options = freehold_gateway::Options {
            allowed_hosts: self.allowed_hosts,
            allowed_origins: self.allowed_origins,
            ..freehold_gateway::Options::default()
        };
        let backend = Arc::new(EngineBackend::new(engine, text, info));
        let gateway = Gateway::new(backend, key, options)?;
        let url = format!("http://{}", callable(address));
        let signals = {
            let _context = runtime.enter();
            // Before anybody is told that it is ready: who stops it then stops it well.
            StopSignals::catch()?
        };
        if json {
            output::print_json(&json!({ "url": url, "key": secret }))?;
        } else {
            output::print_line(&ready(&url, &opened.label(), home))?;
            if address.ip().is_unspecified() && is_unnamed {
                output::print_line(
                    "Other machines are refused until --allow-host gives the name they call this one by.",
                )?;
            }
        }
        runtime.block_on(serve(gateway, listener, signals))
    }

    async fn listen(&self) -> Result<TcpListener> {
        let address = self.address;
        TcpListener::bind(address).await.map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::AddrInUse => "stop the program that uses it, or choose another port with --address",
                ErrorKind::AddrNotAvailable => "choose an address of this machine with --address",
                ErrorKind::PermissionDenied => "choose a port of 1024 or above with --address",
                _ => "choose another with --address",
            };
            anyhow!("{address} cannot be listened on: {error}; {remedy}")
        })
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "give an address in numbers and a port, such as 127.0.0.1:4114")
}

/// What to type for this program: its name where a shell finds it, else its path.
fn program() -> String {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&paths).any(|directory| directory.join("freehold").is_file());
    match std::env::current_exe() {
        Ok(path) if !installed => path.display().to_string(),
        _ => "freehold".to_owned(),
    }
}

/// An address to call the server at: every address of the machine is none, and loopback is one of them.
fn callable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn ready(url: &str, model: &str, home: &Home) -> String {
    let mut program = program();
    if let Some(directory) = home.option() {
        // Who copies the call may be in another directory.
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        program += &format!(" --home '{}'", directory.display());
    }
    format!(
        "{model} is served at {url}

Try it:
  curl {url}/v1/chat/completions \\
    -H \"Authorization: Bearer $({program} key show)\" -H 'Content-Type: application/json' \\
    -d '{{\"model\": \"{model}\", \"temperature\": 0, \"messages\": [
      {{\"role\": \"system\", \"content\": \"You are a helpful AI assistant.\"}},
      {{\"role\": \"user\", \"content\": \"What is the capital of France?\"}}]}}'

Any OpenAI client: base URL {url}/v1, the key from `{program} key show`. Ctrl-C stops."
    )
}

/// Serves until a signal, then lets answers under way finish, until another one.
async fn serve(gateway: Gateway, listener: TcpListener, mut signals: StopSignals) -> Result<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = gateway.serve(listener, async {
        // Dropped or used, the sender means the same.
        let _ = stopped.await;
    });
    let told_twice = async {
        signals.next().await;
        drop(stop);
        if std::io::stderr().is_terminal() {
            eprintln!("Answers under way may finish; Ctrl-C again ends them.");
        }
        signals.next().await;
    };
    tokio::select! {
        () = serving => Ok(()),
        () = told_twice => bail!("stopped while answers were under way"),
    }
}

/// Ctrl-C, and the signal by which service managers stop a service.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on they end nothing by themselves.
    fn catch() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
