//! Pulls that do not end by themselves: killed, left by their server, two at once, cleaned up behind.

use crate::program::{Gguf, Home, PROGRAM};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

const DIGEST: &str = "00bf8e3d37a4053e4b650866d38b85b672c887c41e57a92119a0f9a7ba00cfe6";

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Answer {
    /// Sends so many bytes of its answer, head and all, and then nothing until the client goes.
    Held(usize),
    /// Sends so many bytes, and goes.
    Cut(usize),
    /// Sends all.
    Whole,
}

/// Serves the tiny model on loopback; one answer for each request, the last one for all that follow.
struct Server {
    url: String,
    /// Hears of each request, once as much of its answer is sent as will be: the first byte that was asked for.
    asked: Receiver<usize>,
}

impl Server {
    fn new(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/tiny.gguf#sha256={DIGEST}", listener.local_addr().unwrap());
        let (tell, asked) = mpsc::channel();
        thread::spawn(move || {
            for (at, stream) in listener.incoming().flatten().enumerate() {
                let answer = answers[at.min(answers.len() - 1)];
                let tell = tell.clone();
                // A client that breaks off is the test's own.
                thread::spawn(move || serve(&stream, answer, &tell));
            }
        });
        Self { url, asked }
    }

    fn first_bytes_asked_for(&self) -> Vec<usize> {
        self.asked.try_iter().collect()
    }
}

fn serve(mut stream: &TcpStream, answer: Answer, tell: &mpsc::Sender<usize>) -> Option<()> {
    let lines = BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let ranges = lines.filter_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
    let start: usize = ranges.last().map_or(0, |range| range.trim_end_matches('-').parse().unwrap());
    let body = Gguf::tiny().0;
    let (last, total) = (body.len() - 1, body.len());
    let head = match start {
        0 => "HTTP/1.1 200 OK".to_owned(),
        _ => format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {start}-{last}/{total}"),
    };
    let head = format!("{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", total - start);
    let bytes = [head.as_bytes(), &body[start..]].concat();
    let sent = match answer {
        Answer::Held(sent) | Answer::Cut(sent) => sent.min(bytes.len()),
        Answer::Whole => bytes.len(),
    };
    stream.write_all(&bytes[..sent]).ok()?;
    tell.send(start).ok()?;
    if matches!(answer, Answer::Held(_)) {
        // A client says nothing more, so this is its end.
        stream.read_exact(&mut [0]).ok()?;
    }
    Some(())
}

fn start(home: &Home, server: &Server) -> Child {
    home.command(PROGRAM, &["pull", &server.url]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Checks that the model is there and whole, and nothing besides.
#[track_caller]
fn assert_whole(home: &Home) {
    assert!(home.run(&["scrub"]).succeeded().starts_with("All 3 files "));
    assert!(home.run(&["rm", "--unused"]).succeeded().ends_with(" unused files deleted, 0 B freed.\n"));
    let ingest = home.path("home/store/ingest");
    assert_eq!(ingest.read_dir().unwrap().count(), 0);
    assert_eq!(home.run(&["show", "tiny", "--json"]).json()["files"][0]["digest"], format!("sha256:{DIGEST}"));
}

/// With `kill -9`, after more and more of the answer.
#[test]
fn a_pull_that_is_killed_goes_on() {
    let size = Gguf::tiny().0.len();
    for sent in [0, 10, 200, 1000, 300_000, size - 1, usize::MAX] {
        let home = Home::new();
        let server = Server::new(vec![Answer::Held(sent), Answer::Whole]);
        let mut pull = start(&home, &server);
        assert_eq!(server.asked.recv().unwrap(), 0);
        pull.kill().unwrap();
        pull.wait().unwrap();
        // Whatever it had come to, what is there is sound.
        home.run(&["list"]).succeeded();
        home.run(&["scrub"]).succeeded();
        home.run(&["pull", &server.url]).succeeded();
        assert!(server.first_bytes_asked_for().iter().all(|&start| start <= sent), "{sent}");
        assert_whole(&home);
    }
}

#[test]
fn a_server_that_leaves_in_the_middle_is_asked_for_the_rest() {
    let home = Home::new();
    let server = Server::new(vec![Answer::Cut(300_000), Answer::Whole]);
    home.run(&["pull", &server.url]).succeeded();
    let asked = server.first_bytes_asked_for();
    assert!(matches!(asked[..], [0, start] if (290_000..300_000).contains(&start)), "{asked:?}");
    assert_whole(&home);
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let home = Home::new();
    let server = Server::new(vec![Answer::Whole]);
    for pull in [start(&home, &server), start(&home, &server)] {
        home.read(pull.wait_with_output().unwrap()).succeeded();
    }
    assert_eq!(server.first_bytes_asked_for(), [0]);
    assert_whole(&home);
}

#[test]
fn a_clean_up_waits_for_a_pull() {
    let home = Home::new();
    let own = home.file("own.gguf", Gguf::tiny().last_weight(2.0).0);
    home.run(&["pull", &format!("file:{own}")]).succeeded();
    let server = Server::new(vec![Answer::Held(300_000), Answer::Whole]);
    let mut pull = start(&home, &server);
    server.asked.recv().unwrap();
    let said = home.run(&["rm", "--unused"]).succeeded();
    assert_eq!(said, "A pull or a scrub is under way, so nothing is deleted; try again when it has ended.\n");
    pull.kill().unwrap();
    pull.wait().unwrap();
    home.run(&["rm", "own", "--unused"]).succeeded();
    assert_eq!(home.path("home/store/ingest").read_dir().unwrap().count(), 0);
    home.run(&["pull", &server.url]).succeeded();
    assert_eq!(server.first_bytes_asked_for(), [0]);
    assert_whole(&home);
}
