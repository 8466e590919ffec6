//! Clients that are slow, leave, or come together; and the end of the server.

use crate::client::{Reply, Server, chat_body, friendly, in_time};
use crate::scripted::{Script, Scripted};
use freehold_engine::Flow;
use freehold_gateway::Options;
use serde_json::{Value, json};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const SHORT: Duration = Duration::from_millis(50);

/// A backend that sends a token for each permit, and tells what the gateway said to it.
fn gated() -> (Scripted, mpsc::Sender<()>, UnboundedReceiver<Flow>) {
    let (permit, permits) = mpsc::channel();
    let (flows, said) = unbounded_channel();
    (Scripted::new(Script::Gated(Mutex::new(permits), flows)), permit, said)
}

async fn begin(server: &Server, fields: Value) -> TcpStream {
    let mut stream = server.connect().await;
    stream.write_all(server.chat_bytes(&chat_body(fields)).as_bytes()).await.unwrap();
    stream
}

/// Reads until `text` has come.
async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        assert_ne!(in_time(stream.read_buf(&mut seen)).await.unwrap(), 0, "{}", String::from_utf8_lossy(&seen));
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    for stream in [true, false] {
        let (backend, permit, mut said) = gated();
        let server = Server::start(backend, Options::default()).await;
        let mut client = begin(&server, json!({"stream": stream, "max_tokens": 1 << 20})).await;
        permit.send(()).unwrap();
        assert_eq!(in_time(said.recv()).await, Some(Flow::Continue));
        if stream {
            read_until(&mut client, "\"content\":\"x\"").await;
        }
        drop(client);
        in_time(async {
            loop {
                permit.send(()).unwrap();
                if said.recv().await.unwrap() == Flow::Cancel {
                    break;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_up_the_backend() {
    let (backend, permit, mut said) = gated();
    let server = Server::start(backend, Options::default()).await;
    let client = begin(&server, json!({"stream": true, "max_tokens": 20_000})).await;
    for _ in 0..20_000 {
        permit.send(()).unwrap();
        assert_eq!(in_time(said.recv()).await, Some(Flow::Continue));
    }
    drop(permit);
    let reply = Reply::read(client).await;
    assert_eq!(reply.events().len(), 20_000 + 3);
    assert_eq!(reply.events().last(), Some(&"[DONE]"));
}

#[tokio::test]
async fn comments_keep_a_silent_stream_alive() {
    let (backend, permit, _said) = gated();
    let server = Server::limited(backend, |limits| limits.keep_alive_interval = SHORT).await;
    let mut client = begin(&server, json!({"stream": true})).await;
    read_until(&mut client, ": keep-alive\n\n").await;
    drop(permit);
    read_until(&mut client, "data: [DONE]\n\n").await;
}

#[tokio::test]
async fn requests_run_side_by_side_up_to_the_limit() {
    let together = Arc::new(Barrier::new(4));
    let server = Server::limited(Scripted::new(Script::Together(together)), |limits| limits.requests = 4).await;
    // None of the four ends before the fourth has begun.
    let first: Vec<TcpStream> =
        vec![begin(&server, json!({})).await, begin(&server, json!({})).await, begin(&server, json!({})).await];
    in_time(async {
        while server.backend.requests.lock().unwrap().len() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let fourth = server.chat(json!({"stream": true})).await;
    assert!(fourth.body.contains("together"));
    for client in first {
        assert_eq!(Reply::read(client).await.json()["choices"][0]["message"]["content"], "together");
    }

    let (backend, permit, _said) = gated();
    let server = Server::limited(backend, |limits| limits.requests = 1).await;
    let mut client = begin(&server, json!({"stream": true})).await;
    read_until(&mut client, "assistant").await;
    let refused = server.chat(json!({})).await;
    refused.assert_error(429, "rate_limit_exceeded", None);
    assert!(refused.header("retry-after").is_some());
    drop(permit);
    read_until(&mut client, "[DONE]").await;
}

#[tokio::test]
async fn slow_headers_end_the_connection() {
    let server = Server::limited(friendly(), |limits| limits.headers_time = SHORT).await;
    for start in ["", "GET", "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "] {
        let mut stream = server.connect().await;
        stream.write_all(start.as_bytes()).await.unwrap();
        let (mut read, mut write) = stream.into_split();
        // One byte after the other, as a client would that wants to hold the connection.
        let drip = tokio::spawn(async move {
            let mut pace = tokio::time::interval(SHORT / 10);
            loop {
                pace.tick().await;
                if write.write_all(b"x").await.is_err() {
                    break;
                }
            }
        });
        let mut answer = Vec::new();
        let _ = in_time(read.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        drip.abort();
    }
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let server = Server::limited(friendly(), |limits| limits.headers_time = SHORT).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert_eq!(Reply::read(stream).await.status, 200);
}

#[tokio::test]
async fn slow_bodies_are_refused() {
    let server = Server::limited(friendly(), |limits| limits.body_time = SHORT).await;
    let head = server.chat_bytes("").replace("Content-Length: 0", "Content-Length: 100");
    server.raw(&head).await.assert_error(408, "body_incomplete", None);
}

#[tokio::test]
async fn huge_headers_are_refused() {
    let server = Server::friendly().await;
    for headers in [format!("X-Long: {}\r\n", "x".repeat(1 << 20)), "X-Many: x\r\n".repeat(10_000)] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let mut stream = server.connect().await;
        // The server may close before it has read everything.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = in_time(stream.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let server = Server::limited(friendly(), |limits| limits.connections = 1).await;
    let holder = server.connect().await;
    let waiting = begin(&server, json!({})).await;
    drop(holder);
    assert_eq!(Reply::read(waiting).await.status, 200);
}

#[tokio::test]
async fn a_stop_lets_answers_finish_and_takes_nothing_new() {
    let (backend, permit, mut said) = gated();
    let server = Server::start(backend, Options::default()).await;
    let mut client = begin(&server, json!({"stream": true})).await;
    let idle = server.connect().await;
    read_until(&mut client, "assistant").await;
    server.stop.send(()).unwrap();
    in_time(async { while TcpStream::connect(server.address).await.is_ok() {} }).await;
    assert!(!server.ended.is_finished());
    permit.send(()).unwrap();
    assert_eq!(in_time(said.recv()).await, Some(Flow::Continue));
    drop(permit);
    let mut rest = String::new();
    in_time(client.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.contains("\"content\":\"x\"") && rest.contains("[DONE]"), "{rest}");
    in_time(server.ended).await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn a_stop_cuts_what_does_not_finish_in_time() {
    let (backend, permit, mut said) = gated();
    let server = Server::limited(backend, |limits| limits.stop_time = Duration::ZERO).await;
    let mut client = begin(&server, json!({"stream": true})).await;
    read_until(&mut client, "assistant").await;
    server.stop.send(()).unwrap();
    let mut rest = String::new();
    in_time(client.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.contains("data: {\"error\":") && rest.contains("shutting_down"), "{rest}");
    assert!(!rest.contains("[DONE]"));
    in_time(server.ended).await.unwrap();
    permit.send(()).unwrap();
    assert_eq!(in_time(said.recv()).await, Some(Flow::Cancel));
}
