//! Who gets in.

use crate::client::{Server, friendly};
use freehold_gateway::{AdminKey, Gateway, GatewayError, Options};
use std::sync::Arc;

const HOST: &str = "Host: HOST";
const KEY: &str = "Authorization: Bearer KEY";

#[tokio::test]
async fn v1_needs_the_key() {
    let server = Server::friendly().await;
    for path in ["/v1/models", "/v1/models/test/model:1"] {
        for (authorization, status) in [
            (KEY, 200),
            ("Authorization: bearer  KEY ", 200),
            ("X-Nothing: KEY", 401),
            ("Authorization: KEY", 401),
            ("Authorization: Basic KEY", 401),
            ("Authorization: Bearer KEYx", 401),
            ("Authorization: Bearer fh-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 401),
            ("Authorization: Bearer ", 401),
            ("Authorization: ", 401),
        ] {
            let reply = server.bare(&format!("GET {path}"), &[HOST, authorization]).await;
            assert_eq!(reply.status, status, "{authorization}");
            if status == 401 {
                reply.assert_error(401, "invalid_api_key", None);
                assert_eq!(reply.header("www-authenticate"), Some("bearer"));
            }
        }
    }
    // Without a key nothing tells which paths there are, or reads a body.
    server.bare("GET /v1/secret", &[HOST]).await.assert_error(401, "invalid_api_key", None);
    server.bare("DELETE /v1/models", &[HOST]).await.assert_error(401, "invalid_api_key", None);
    let post = ["Content-Length: 1000000000000", HOST];
    server.bare("POST /v1/chat/completions", &post).await.assert_error(401, "invalid_api_key", None);
}

#[tokio::test]
async fn the_host_must_be_this_machine() {
    let options = Options { allowed_hosts: vec!["box.example".into()], ..Options::default() };
    let server = Server::start(friendly(), options).await;
    for (host, good) in [
        (HOST, true),
        ("Host: localhost:1", true),
        ("Host: BOX.example", true),
        ("Host: evil.example", false),
        ("Host: 169.254.169.254", false),
        ("Host: ", false),
        ("X-No: host", false),
        ("Host: localhost\r\nHost: localhost", false),
        ("Host: evil.example\r\nX-Forwarded-Host: localhost", false),
    ] {
        for (path, key) in [("/", "X-No: key"), ("/v1/models", KEY), ("/v1/models", "X-No: key")] {
            let reply = server.bare(&format!("GET {path}"), &[host, key]).await;
            match good {
                true => assert_ne!(reply.status, 403, "{host}"),
                false => reply.assert_error(403, "host_not_allowed", None),
            }
        }
    }
    let target = server.bare("GET http://evil.example/v1/models", &[HOST, KEY]).await;
    target.assert_error(403, "host_not_allowed", None);
    let probe = server.bare("GET /healthz", &["Host: 10.1.2.3"]).await;
    assert_eq!((probe.status, probe.body.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_unless_allowed() {
    let options = Options { allowed_origins: vec!["https://chat.example".into()], ..Options::default() };
    let server = Server::start(friendly(), options).await;
    for (origin, good) in [
        ("Origin: http://HOST", true),
        ("Origin: https://chat.example", true),
        ("Origin: https://evil.example", false),
        ("Origin: http://localhost:3000", false),
        ("Origin: null", false),
        ("Origin: https://chat.example.evil.example", false),
        ("Origin: https://chat.example\r\nOrigin: https://evil.example", false),
    ] {
        let reply = server.bare("GET /v1/models", &[HOST, KEY, origin]).await;
        match good {
            true => assert_eq!(reply.status, 200, "{origin}"),
            false => reply.assert_error(403, "origin_not_allowed", None),
        }
    }
    // What a browser asks before the call carries no key.
    let asks = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type"];
    for (origin, allowed) in [("https://chat.example", true), ("https://evil.example", false)] {
        let header = format!("Origin: {origin}");
        let reply = server.bare("OPTIONS /v1/chat/completions", &[HOST, &header, asks[0], asks[1]]).await;
        assert_eq!(reply.header("access-control-allow-origin"), allowed.then_some(origin));
    }
}

#[tokio::test]
async fn an_allowed_origin_must_be_one() {
    let folder = tempfile::tempdir().unwrap();
    let key = AdminKey::load_or_create(&folder.path().join("key")).unwrap();
    for origin in ["*", "chat.example", "https://chat.example/", "https://Chat.example", "ftp://chat.example", ""] {
        let options = Options { allowed_origins: vec![origin.into()], ..Options::default() };
        let result = Gateway::new(Arc::new(friendly()), key.clone(), options);
        assert!(matches!(result, Err(GatewayError::InvalidOrigin(_))), "{origin}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods() {
    let server = Server::friendly().await;
    for (line, status, code) in [
        ("GET /v1", 404, "unknown_url"),
        ("GET /v1/", 404, "unknown_url"),
        ("POST /v1/embeddings", 404, "unknown_url"),
        ("GET /v1/chat/completions", 405, "method_not_allowed"),
        ("POST /v1/models", 405, "method_not_allowed"),
        ("GET /../../etc/passwd", 404, "unknown_url"),
        ("GET /index.html", 404, "unknown_url"),
        ("POST /", 405, "method_not_allowed"),
    ] {
        server.bare(line, &[HOST, KEY]).await.assert_error(status, code, None);
    }
}

#[tokio::test]
async fn the_page_describes_the_model_and_holds_no_key() {
    let server = Server::friendly().await;
    let page = server.bare("GET /", &[HOST]).await;
    assert_eq!(page.status, 200);
    let address = format!("http://{}/v1", server.address);
    for text in ["test/model:1", "Apache-2.0 &lt;OR&gt; MIT", "sha256:0123456789abcdef", "cpu-1/kv-f16", &address] {
        assert!(page.body.contains(text), "{text}");
    }
    assert!(!page.body.contains(&server.key));
    assert!(!page.body.contains("{{"));
    // Nothing from elsewhere.
    for text in ["src=", "href=", "url(", "@import", "<script"] {
        assert!(!page.body.contains(text), "{text}");
    }
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'none'"));
}
