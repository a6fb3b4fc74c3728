//! The example against a small server on the loopback interface.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cachelock::GetError;
use cachelock_example_http::{FetchError, HttpCache};

/// What the server says next, and what it was asked.
#[derive(Default)]
struct State {
    answer: Answer,
    /// For each request the `If-None-Match` that came with it.
    asked: Vec<Option<String>>,
    delay: Duration,
}

#[derive(Clone, Copy, Default)]
enum Answer {
    /// This body with this `ETag`, or 304 if the client has it.
    #[default]
    First,
    Second,
    Missing,
    Broken,
    /// A body that is announced longer than it is.
    Cut,
}

struct Server {
    url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "http://{}/index.json?all=yes&x=../..",
            listener.local_addr().unwrap()
        );
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = shared.clone();
                thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        Server { url, state }
    }

    fn say(&self, answer: Answer) {
        self.state.lock().unwrap().answer = answer;
    }

    fn asked(&self) -> Vec<Option<String>> {
        self.state.lock().unwrap().asked.clone()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut known = None;
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("if-none-match")
        {
            known = Some(value.to_owned());
        }
    }
    let (answer, delay) = {
        let mut state = state.lock().unwrap();
        state.asked.push(known.clone());
        (state.answer, state.delay)
    };
    thread::sleep(delay);
    let ok = |etag: &str, len: usize, body: &str| {
        if known.as_deref() == Some(etag) {
            format!("HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\nConnection: close\r\n\r\n")
        } else {
            format!(
                "HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
            )
        }
    };
    let response = match answer {
        Answer::First => ok("\"v1\"", 5, "first"),
        Answer::Second => ok("\"v2\"", 6, "second"),
        Answer::Cut => ok("\"v3\"", 100, "half of it"),
        Answer::Missing => {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned()
        }
        Answer::Broken => {
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                .to_owned()
        }
    };
    // A client that has seen enough may be gone.
    let _ = stream.write_all(response.as_bytes());
}

/// Every call asks the server.
fn never_fresh(dir: &tempfile::TempDir) -> HttpCache {
    HttpCache::open(dir.path(), Duration::ZERO).unwrap()
}

fn body(cache: &HttpCache, url: &str) -> Option<String> {
    let found = cache.get(url).unwrap_or_else(|error| panic!("{error}"));
    found.map(|body| String::from_utf8(body.to_vec()).unwrap())
}

#[test]
fn a_fresh_answer_is_not_asked_for_again() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let cache = HttpCache::open(dir.path(), Duration::from_secs(600)).unwrap();
    for _ in 0..3 {
        assert_eq!(body(&cache, &server.url).as_deref(), Some("first"));
    }
    assert_eq!(server.asked(), [None], "one request for three answers");
}

#[test]
fn an_answer_is_revalidated_with_its_etag_and_replaced_when_it_changed() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    let cache = never_fresh(&dir);
    assert_eq!(body(&cache, &server.url).as_deref(), Some("first"));
    assert_eq!(body(&cache, &server.url).as_deref(), Some("first"), "304");
    server.say(Answer::Second);
    assert_eq!(body(&cache, &server.url).as_deref(), Some("second"));
    assert_eq!(body(&cache, &server.url).as_deref(), Some("second"), "304");
    let etag = |text: &str| Some(format!("\"{text}\""));
    assert_eq!(server.asked(), [None, etag("v1"), etag("v1"), etag("v2")]);
}

#[test]
fn a_server_that_is_down_or_breaks_off_does_not_take_the_answer_away() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.say(Answer::Broken);
    let cache = never_fresh(&dir);
    let error = cache
        .get(&server.url)
        .expect_err("there is no older answer");
    assert!(
        matches!(&error, GetError::Produce(FetchError::Status(status)) if status.as_u16() == 503),
        "{error}"
    );
    server.say(Answer::First);
    assert_eq!(body(&cache, &server.url).as_deref(), Some("first"));
    for trouble in [Answer::Broken, Answer::Cut] {
        server.say(trouble);
        assert_eq!(body(&cache, &server.url).as_deref(), Some("first"));
    }
    server.say(Answer::Second);
    assert_eq!(body(&cache, &server.url).as_deref(), Some("second"));
}

#[test]
fn what_does_not_exist_is_remembered() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.say(Answer::Missing);
    let cache = never_fresh(&dir);
    assert_eq!(body(&cache, &server.url), None);
    server.say(Answer::First);
    assert_eq!(body(&cache, &server.url), None, "believed for a minute");
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn sixteen_processes_make_one_request() {
    let (server, dir) = (Server::start(), tempfile::tempdir().unwrap());
    server.state.lock().unwrap().delay = Duration::from_millis(200);
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_cachelock-example-http"))
            .arg(dir.path())
            .arg(&server.url)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..16).map(|_| start()).collect();
    for child in children {
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        assert_eq!(out.stdout, b"first");
    }
    assert_eq!(server.asked().len(), 1);
}
