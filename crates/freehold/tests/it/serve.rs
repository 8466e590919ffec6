//! `freehold up` on the real engine, over loopback.

use crate::program::{Gguf, Home, PROGRAM, TINY};
use freehold_engine::TextModel;
use freehold_formats::Checkpoint;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What hangs fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program while it serves; it ends with this value.
struct Server {
    process: Child,
    address: SocketAddr,
    key: String,
}

impl Server {
    /// On a free port; returns when it is ready.
    fn start(home: &Home) -> Self {
        Self::start_at(home, "127.0.0.1:0")
    }

    fn start_at(home: &Home, address: &str) -> Self {
        let mut command = home.command(PROGRAM, &["up", "tiny", "--address", address, "--json"]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(ready) = serde_json::from_str::<Value>(&line) else { panic!("{line} {:?}", process.wait_with_output()) };
        assert_eq!(ready.as_object().unwrap().keys().collect::<Vec<_>>(), ["url", "key"]);
        let address = ready["url"].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
        Self { process, address, key: ready["key"].as_str().unwrap().to_owned() }
    }

    /// Sends a request and leaves the connection to be read. In HTTP/1.0 a body ends where the connection does.
    fn send(&self, line: &str, headers: &[String], body: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(stream, "{line} HTTP/1.0\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        BufReader::new(stream)
    }

    fn host(&self) -> String {
        format!("Host: {}", self.address)
    }

    fn authorization(&self) -> String {
        format!("Authorization: Bearer {}", self.key)
    }

    fn get(&self, path: &str, headers: &[String]) -> (u16, String) {
        read(self.send(&format!("GET {path}"), headers, ""))
    }

    /// Begins a chat; `fields` go over the least that is needed.
    fn begin(&self, fields: &Value) -> BufReader<TcpStream> {
        let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "Who owns the house?"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.send("POST /v1/chat/completions", &[self.host(), self.authorization()], &body.to_string())
    }

    fn chat(&self, fields: &Value) -> (u16, Value) {
        let (status, body) = read(self.begin(fields));
        (status, serde_json::from_str(&body).unwrap())
    }

    fn signal(&self, name: &str) {
        // The shell's own `kill`, as small machines have no other.
        let id = self.process.id().to_string();
        let kill = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &id]).status().unwrap();
        assert!(kill.success());
    }

    /// Waits until nothing new is accepted.
    fn wait_until_closed(&self) {
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }

    /// The exit code and what was said on standard error.
    fn wait(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a stop it is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The status and the body.
fn read(mut reply: BufReader<TcpStream>) -> (u16, String) {
    let mut text = String::new();
    reply.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The data of the events of a stream.
fn events(body: &str) -> Vec<&str> {
    body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

/// Reads a stream up to its first token.
fn read_first_token(reply: &mut BufReader<TcpStream>) {
    let mut line = String::new();
    loop {
        line.clear();
        assert_ne!(reply.read_line(&mut line).unwrap(), 0, "the stream has ended");
        if let Some(event) = line.strip_prefix("data: ") {
            let event: Value = serde_json::from_str(event).unwrap();
            if event["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
                return;
            }
        }
    }
}

/// A home with a model that goes on for as long as it is let: `tiny` with a context far longer than any test waits for.
fn endless() -> Home {
    let home = Home::new();
    let path = home.file("endless.gguf", Gguf::tiny().number("llama.context_length", CONTEXT).0);
    home.run(&["pull", &format!("file:{path}"), "--name", "tiny"]).succeeded();
    home
}

/// The engine keeps room for two contexts of the default's length.
const CONTEXT: u32 = 32_768;

/// Fields of a request that ends only at its `max_tokens`.
fn endless_request(max_tokens: u32) -> Value {
    json!({"stream": true, "max_tokens": max_tokens, "temperature": 0, "logit_bias": {"0": -100, "2": -100}})
}

#[test]
fn the_doors_are_closed_to_those_without_the_key_or_for_another_host() {
    let home = Home::with_tiny();
    let server = Server::start(&home);
    let key_file = home.path("home/admin.key").metadata().unwrap();
    assert_eq!(key_file.permissions().mode() & 0o777, 0o600);
    assert_eq!(home.run(&["key", "show"]).succeeded().trim(), server.key);

    let (host, key) = (server.host(), server.authorization());
    for (headers, status) in [
        (vec![host.clone(), key.clone()], 200),
        (vec![host.clone()], 401),
        (vec![host.clone(), "Authorization: Bearer fh-wrong".to_owned()], 401),
        (vec!["Host: example.org".to_owned(), key.clone()], 403),
        (vec![key.clone()], 403),
    ] {
        assert_eq!(server.get("/v1/models", &headers).0, status, "{headers:?}");
    }
    let (_, models) = server.get("/v1/models", &[host.clone(), key]);
    let models: Value = serde_json::from_str(&models).unwrap();
    let model = &models["data"][0];
    assert_eq!((&model["id"], &model["context_length"]), (&json!("tiny"), &json!(512)));
    assert_eq!((&model["numerics"], &model["licence"]), (&json!("cpu-1/kv-f16"), &json!("apache-2.0")));
    let (status, page) = server.get("/", &[host]);
    assert!(status == 200 && page.contains("tiny") && !page.contains(&server.key));
}

#[test]
fn streamed_whole_and_in_the_terminal_an_answer_is_the_same() {
    let home = Home::with_tiny();
    let server = Server::start(&home);
    let checkpoint = Checkpoint::open(TINY.as_ref()).unwrap();
    let text = TextModel::open(&checkpoint).unwrap();
    for (temperature, seed) in [(0.0, 0), (1.0, 7), (1.5, 1u64 << 40)] {
        let fields = json!({
            "temperature": temperature, "seed": seed, "max_tokens": 40, "min_p": 0.05, "logprobs": true,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who owns it?"}],
        });
        let (status, whole) = server.chat(&fields);
        assert_eq!(status, 200, "{whole}");
        let choice = &whole["choices"][0];

        let mut streamed = fields;
        streamed.as_object_mut().unwrap().extend([
            ("stream".to_owned(), json!(true)),
            ("stream_options".to_owned(), json!({"include_usage": true})),
        ]);
        let (_, body) = read(server.begin(&streamed));
        let mut events = events(&body);
        assert_eq!(events.pop(), Some("[DONE]"));
        let events: Vec<Value> = events.iter().map(|event| serde_json::from_str(event).unwrap()).collect();
        let choices: Vec<&Value> = events.iter().filter_map(|event| event["choices"].get(0)).collect();
        let streamed_text: String = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        let tokens = |choice: &Value| choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
        let streamed_tokens: Vec<Value> = choices.iter().flat_map(|choice| tokens(choice)).collect();
        assert_eq!(choice["message"]["content"], streamed_text);
        assert_eq!(tokens(choice), streamed_tokens);
        assert_eq!(events.last().unwrap()["usage"], whole["usage"]);
        assert_eq!(choices.last().unwrap()["finish_reason"], choice["finish_reason"]);
        assert_eq!(events[0]["system_fingerprint"], whole["system_fingerprint"]);

        let (temperature, seed) = (temperature.to_string(), seed.to_string());
        let settings = ["--temperature", &temperature, "--seed", &seed, "--max-tokens", "40", "--min-p", "0.05"];
        let question = ["run", "tiny", "Who owns it?", "--system", "Be brief.", "--json"];
        let ran = home.run(&[&question[..], &settings].concat()).json();
        assert_eq!(ran["text"], streamed_text);
        let ids = ran["token_ids"].as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap());
        let bytes: Vec<Value> = ids.map(|id| json!(text.tokenizer().token_bytes(id).unwrap())).collect();
        let streamed_bytes: Vec<Value> = streamed_tokens.iter().map(|token| token["bytes"].clone()).collect();
        assert_eq!(bytes, streamed_bytes);
        for count in ["prompt_tokens", "completion_tokens"] {
            assert_eq!(whole["usage"][count], ran[count]);
        }
        let total = ran["prompt_tokens"].as_u64().unwrap() + ran["completion_tokens"].as_u64().unwrap();
        assert_eq!(whole["usage"]["total_tokens"], total);
        assert_eq!(choice["finish_reason"], ran["finish_reason"]);
    }
}

#[test]
fn in_company_an_answer_is_the_same() {
    let home = Home::with_tiny();
    let server = Server::start(&home);
    let ask = |seed: usize| {
        let messages = json!([{"role": "user", "content": "Who owns it? ".repeat(1 + seed * 5 % 23)}]);
        let (status, answer) =
            server.chat(&json!({"messages": messages, "seed": seed, "max_tokens": 60, "logprobs": true}));
        assert_eq!(status, 200, "{answer}");
        answer["choices"].clone()
    };
    let seeds = 0..12;
    let alone: Vec<Value> = seeds.clone().map(ask).collect();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let clients: Vec<_> = seeds.map(|seed| scope.spawn(move || ask(seed))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn requests_that_make_no_sense_leave_the_server_as_it_was() {
    let home = Home::with_tiny();
    let server = Server::start(&home);
    let sensible = json!({"temperature": 1, "seed": 3, "max_tokens": 20});
    let before = server.chat(&sensible);
    for fields in [
        json!({"temperature": -1}),
        json!({"temperature": 1e300}),
        json!({"top_p": -0.5}),
        json!({"min_p": 2}),
        json!({"top_k": 0.5}),
        json!({"max_tokens": 0}),
        json!({"max_tokens": -1}),
        json!({"max_tokens": 1e30}),
        json!({"repetition_penalty": 0}),
        json!({"presence_penalty": 3}),
        json!({"frequency_penalty": -3}),
        json!({"logit_bias": {"359": 1}}),
        json!({"logit_bias": {"0": 1e300}}),
        json!({"top_logprobs": 21, "logprobs": true}),
        json!({"stop": ["a", "b", "c", "d", "e"]}),
        json!({"seed": "one"}),
        json!({"messages": []}),
        json!({"messages": [{"role": "emperor", "content": "Who?"}]}),
        json!({"messages": [{"role": "user", "content": "word ".repeat(1 << 20)}]}),
        json!({"n": 2}),
    ] {
        for stream in [false, true] {
            let mut fields = fields.clone();
            fields["stream"] = json!(stream);
            let (status, reply) = server.chat(&fields);
            assert_eq!((status, &reply["error"]["type"]), (400, &json!("invalid_request_error")), "{fields}: {reply}");
        }
    }
    // The most that makes sense.
    for fields in [
        json!({"max_tokens": u64::MAX}),
        json!({"seed": i64::MIN}),
        json!({"temperature": 2, "top_p": 0.001, "top_k": u32::MAX, "repetition_penalty": 2, "max_tokens": 9}),
        json!({"temperature": 1e-40, "max_tokens": 9}),
        json!({"logit_bias": {"0": -100, "358": 100}, "max_tokens": 9}),
        json!({"messages": [{"role": "user", "content": ""}], "max_tokens": 1, "top_logprobs": 20, "logprobs": true}),
    ] {
        let (status, reply) = server.chat(&fields);
        assert_eq!(status, 200, "{fields}: {reply}");
    }
    let after = server.chat(&sensible);
    assert_eq!((after.0, &after.1["choices"]), (200, &before.1["choices"]));
}

#[test]
fn listening_on_every_address_it_names_one_that_can_be_called() {
    let home = Home::with_tiny();
    let server = Server::start_at(&home, "0.0.0.0:0");
    assert!(server.address.ip().is_loopback());
    assert_eq!(server.get("/v1/models", &[server.host(), server.authorization()]).0, 200);
}

#[test]
fn a_prompt_that_does_not_fit_is_refused() {
    let home = Home::with_tiny();
    let server = Server::start(&home);
    for stream in [false, true] {
        let messages = json!([{"role": "user", "content": "word ".repeat(2000)}]);
        let (status, reply) = server.chat(&json!({"messages": messages, "stream": stream}));
        assert_eq!((status, &reply["error"]["code"]), (400, &json!("context_length_exceeded")), "{reply}");
        assert!(reply["error"]["message"].as_str().unwrap().contains("maximum context length is 512 tokens"));
    }
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let home = endless();
    let server = Server::start(&home);
    // Each takes most of a context: beside two there is no place for a third.
    let request = endless_request(CONTEXT - 200);
    let mut clients = [(); 2].map(|()| server.begin(&request));
    clients.iter_mut().for_each(read_first_token);
    let mut third = server.begin(&request);
    drop(clients);
    read_first_token(&mut third);
}

#[test]
fn a_stop_lets_the_answer_under_way_finish() {
    let home = endless();
    for signal in ["TERM", "INT"] {
        let server = Server::start(&home);
        let mut client = server.begin(&endless_request(2_000));
        read_first_token(&mut client);
        server.signal(signal);
        server.wait_until_closed();
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        let events = events(&rest);
        let [.., last, done] = &events[..] else { panic!("{rest}") };
        assert_eq!(*done, "[DONE]");
        assert_eq!(serde_json::from_str::<Value>(last).unwrap()["choices"][0]["finish_reason"], "length");
        assert_eq!(server.wait(), (Some(0), String::new()));
    }
}

#[test]
fn a_second_signal_ends_the_answer_under_way() {
    let home = endless();
    let server = Server::start(&home);
    let mut client = server.begin(&endless_request(CONTEXT - 200));
    read_first_token(&mut client);
    server.signal("INT");
    server.wait_until_closed();
    server.signal("INT");
    let mut rest = String::new();
    // Cut in the midst of it, the connection may be reset.
    let _ = client.read_to_string(&mut rest);
    assert!(!rest.contains("[DONE]"), "{rest}");
    assert_eq!(server.wait(), (Some(1), "error: stopped while answers were under way\n".to_owned()));
}

#[test]
fn people_are_told_how_to_call_it() {
    let home = Home::with_tiny();
    let mut command = home.command(PROGRAM, &["up", "tiny", "--address", "127.0.0.1:0"]);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(process.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("Ctrl-C stops") {
        assert_ne!(output.read_line(&mut text).unwrap(), 0, "{text}");
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let url = text.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    insta::assert_snapshot!(text.replace(&url, "URL").replace(PROGRAM, "freehold"));
}
