//! A server on a free port, and an HTTP client that can misbehave.

use crate::scripted::{Script, Scripted};
use freehold_engine::FinishReason;
use freehold_gateway::{AdminKey, Gateway, Limits, Options};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// What hangs fails.
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
    pub(crate) backend: Arc<Scripted>,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) ended: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(backend: Scripted, options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = AdminKey::load_or_create(&folder.path().join("key")).unwrap();
        let backend = Arc::new(backend);
        let gateway = Gateway::new(backend.clone(), key.clone(), options).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(gateway.serve(listener, async {
            let _ = stopped.await;
        }));
        Self { address, key: key.reveal().into(), backend, stop, ended }
    }

    /// One that answers "Hello there!".
    pub(crate) async fn friendly() -> Self {
        Self::start(friendly(), Options::default()).await
    }

    pub(crate) async fn limited(backend: Scripted, change: impl FnOnce(&mut Limits)) -> Self {
        let mut options = Options::default();
        change(&mut options.limits);
        Self::start(backend, options).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes and reads until the server closes.
    pub(crate) async fn raw(&self, request: &str) -> Reply {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        Reply::read(stream).await
    }

    /// A request with this first line, these headers and no body. `HOST` and `KEY` stand for the server's.
    pub(crate) async fn bare(&self, line: &str, headers: &[&str]) -> Reply {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!("{line} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        self.raw(&request.replace("HOST", &self.address.to_string()).replace("KEY", &self.key)).await
    }

    /// The head and body of a well-formed chat request.
    pub(crate) fn chat_bytes(&self, body: &str) -> String {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            self.key,
            body.len()
        )
    }

    pub(crate) async fn chat_text(&self, body: &str) -> Reply {
        self.raw(&self.chat_bytes(body)).await
    }

    /// A chat request with these fields over the least that is needed.
    pub(crate) async fn chat(&self, fields: Value) -> Reply {
        self.chat_text(&chat_body(fields)).await
    }
}

pub(crate) fn friendly() -> Scripted {
    Scripted::new(Script::Say(vec!["Hel", "", "lo there", "!"], FinishReason::Stop))
}

pub(crate) fn chat_body(fields: Value) -> String {
    let mut body = json!({"model": "test/model:1", "messages": [{"role": "user", "content": "Hi"}]});
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    body.as_object_mut().unwrap().extend(fields);
    body.to_string()
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// Reads until the server closes.
    pub(crate) async fn read(mut stream: TcpStream) -> Self {
        let mut bytes = Vec::new();
        // A server that refuses a body may reset the connection behind its answer.
        let _ = in_time(stream.read_to_end(&mut bytes)).await;
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP response: {text:?}"));
        let head = head.to_ascii_lowercase();
        let body = if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.into() };
        Self { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The data of the events of a stream.
    pub(crate) fn events(&self) -> Vec<&str> {
        let events = self.body.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        events.map(|event| event.strip_prefix("data: ").unwrap()).collect()
    }

    /// Asserts an error in OpenAI's shape.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: &str, param: Option<&str>) {
        assert_eq!(self.status, status, "{self:?}");
        let body = self.json();
        let error = body["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"], "{self:?}");
        assert_eq!(error["code"], code, "{self:?}");
        assert_eq!(error["param"], json!(param), "{self:?}");
        assert!(error["message"].as_str().unwrap().ends_with('.'), "{self:?}");
        assert!(self.header("x-request-id").unwrap().starts_with("req_"), "{self:?}");
    }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text.push_str(&rest[..size]);
        body = &rest[size + 2..];
    }
    text
}
