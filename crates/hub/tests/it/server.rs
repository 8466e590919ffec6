//! A scripted HTTP server on the loopback address.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What a client asked.
#[derive(Clone, Default, Debug)]
pub(crate) struct Request {
    /// The server's own.
    pub(crate) port: u16,
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) referer: Option<String>,
    pub(crate) body: Vec<u8>,
    /// First byte of the range asked for.
    pub(crate) range: Option<usize>,
}

/// What it gets.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<String>,
    body: Vec<u8>,
    cut: Option<usize>,
    declares_length: bool,
    end: End,
}

/// What follows the part of the body that is sent at once.
#[derive(PartialEq)]
enum End {
    Closed,
    /// Nothing, until the client goes.
    Silence,
    /// Byte after byte, slowly, until the client goes.
    Drops,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), cut: None, declares_length: true, end: End::Closed }
    }

    /// All of `bytes`, whatever range was asked for.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        Self { body: bytes.to_vec(), ..Self::status(200) }
    }

    /// The range asked for, as a well-behaved server gives it.
    pub(crate) fn range(request: &Request, bytes: &[u8]) -> Self {
        match request.range {
            None => Self::whole(bytes),
            Some(start) if start >= bytes.len() => {
                Self::status(416).header(&format!("Content-Range: bytes */{}", bytes.len()))
            }
            Some(start) => Self { body: bytes[start..].to_vec(), ..Self::status(206) }.header(&format!(
                "Content-Range: bytes {start}-{}/{}",
                bytes.len() - 1,
                bytes.len()
            )),
        }
    }

    pub(crate) fn header(mut self, line: &str) -> Self {
        self.headers.push(line.to_owned());
        self
    }

    /// Calls whatever it is a part.
    pub(crate) fn called_partial(mut self) -> Self {
        self.status = 206;
        self
    }

    /// Breaks the connection after so many bytes of the body.
    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Says no more after so many bytes of the body, and keeps the connection.
    pub(crate) fn silent_after(self, bytes: usize) -> Self {
        Self { end: End::Silence, ..self.cut(bytes) }
    }

    /// Sends what follows so many bytes of the body drop by drop.
    pub(crate) fn dripping_after(self, bytes: usize) -> Self {
        Self { end: End::Drops, ..self.cut(bytes) }
    }

    /// Says nothing about the body's length.
    pub(crate) fn without_length(mut self) -> Self {
        self.declares_length = false;
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server that lives until the test process ends.
pub(crate) struct Server {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn new(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        let handler: Arc<Handler> = Arc::new(handler);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, handler) = (Arc::clone(&log), Arc::clone(&handler));
                thread::spawn(move || serve(stream, &log, &*handler));
            }
        });
        Self { port, requests }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Host and port.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The requests so far, and forgets them.
    pub(crate) fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

/// One request; a client that goes away is no error here.
fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, handler: &Handler) {
    let port = stream.local_addr().map_or(0, |address| address.port());
    let mut request = Request { port, ..Request::default() };
    let mut reader = BufReader::new(&stream);
    let mut first = String::new();
    if reader.read_line(&mut first).is_err() {
        return;
    }
    let mut words = first.split(' ').map(str::to_owned);
    (request.method, request.path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut length = 0;
    for line in reader.by_ref().lines() {
        let Ok(line) = line else { return };
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = value.trim_start_matches("bytes=").trim_end_matches('-').parse().ok(),
            "referer" => request.referer = Some(value.to_owned()),
            "authorization" => request.authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    request.body.resize(length, 0);
    if reader.read_exact(&mut request.body).is_err() {
        return;
    }
    log.lock().unwrap().push(request.clone());
    let reply = handler(&request);
    let mut head = format!("HTTP/1.1 {} x\r\nConnection: close\r\n", reply.status);
    if reply.declares_length {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    for header in &reply.headers {
        head += &format!("{header}\r\n");
    }
    head += "\r\n";
    let whole = if request.method == "HEAD" { 0 } else { reply.body.len() };
    let (sent, rest) = reply.body.split_at(reply.cut.unwrap_or(whole).min(whole));
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent)).ok();
    if reply.end == End::Closed {
        return;
    }
    // A client that is still there says nothing.
    stream.set_read_timeout((reply.end == End::Drops).then_some(Duration::from_millis(20))).unwrap();
    for byte in rest {
        match stream.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return,
        }
        if stream.write_all(&[*byte]).is_err() {
            return;
        }
    }
}
