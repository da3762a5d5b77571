//! The end under load: what was answered is committed, nobody gets an answer that is not documented, and the process ends by itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::server::Server;
use crate::table::count;
use crate::wire::{get, request};

const CLIENTS: u32 = 24;
const GRACE: Duration = Duration::from_secs(10);

/// One connection kept open; each pair in a request of its own until the server lets go. How many were answered with 200.
fn post_until_the_end(address: &str, client: u32, odd: &AtomicU32) -> u32 {
    let mut acknowledged = 0;
    let Ok(socket) = TcpStream::connect(address) else {
        return 0;
    };
    socket.set_read_timeout(Some(GRACE * 3)).unwrap();
    let mut answers = BufReader::new(socket.try_clone().unwrap());
    let mut socket = socket;
    loop {
        let body = json!({"user_id": format!("{client}-{acknowledged}"), "segment": "single"}).to_string();
        let text = format!(
            "POST /v1/pairs HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if socket.write_all(text.as_bytes()).is_err() {
            return acknowledged;
        }
        match answer(&mut answers) {
            Some(200) => acknowledged += 1,
            Some(503) | None => return acknowledged,
            Some(status) => {
                odd.store(u32::from(status), Ordering::SeqCst);
                return acknowledged;
            }
        }
    }
}

/// The status of the next answer, its body read; `None` where the connection is closed.
fn answer(socket: &mut BufReader<TcpStream>) -> Option<u16> {
    let mut line = String::new();
    socket.read_line(&mut line).ok()?;
    let status = line.split(' ').nth(1)?.parse().ok()?;
    let mut length = 0;
    loop {
        line.clear();
        socket.read_line(&mut line).ok()?;
        if line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).ok()?;
    Some(status)
}

#[test]
fn every_pair_that_was_answered_before_the_end_is_in_the_ledger_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("ledger.db").display());
    let mut server = Server::start(&url, &["--shutdown-grace-seconds", "10"]);
    let odd = Arc::new(AtomicU32::new(0));
    let ended = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (address, odd) = (server.address().to_owned(), Arc::clone(&odd));
            thread::spawn(move || post_until_the_end(&address, client, &odd))
        })
        .collect();
    let stream = {
        let (address, ended) = (server.address().to_owned(), Arc::clone(&ended));
        thread::spawn(move || {
            let lines = (0_u32..).map_while(move |part| {
                thread::sleep(Duration::from_millis(5));
                let line = |n| json!({"user_id": format!("{part}-{n}"), "segment": "streamed"}).to_string() + "\n";
                // Without an end of its own, as long as anybody listens.
                (!ended.load(Ordering::SeqCst)).then(|| (0..20).map(line).collect::<String>().into_bytes())
            });
            let request = request("POST", "/v1/pairs:batch").header("Content-Type", "application/x-ndjson");
            request.chunks(lines).send(&address)
        })
    };
    thread::sleep(Duration::from_millis(1_500));
    server.terminate();
    let asked = Instant::now();
    // Unready first, while everything is still answered.
    let health = server.health.strip_prefix("http://").unwrap().to_owned();
    let unready = loop {
        let answer = get("/readyz").send(&health).expect("health answers until the end");
        if answer.status == 503 {
            break answer;
        }
        assert!(asked.elapsed() < Duration::from_millis(400), "still ready");
    };
    assert_eq!(unready.json()["state"], "shutting_down");
    assert_eq!(get("/livez").send(&health).unwrap().status, 200);
    let late = get("/v1/segments/single/count")
        .send(server.address())
        .expect("it still takes requests");
    assert_eq!(late.status, 200, "{}", late.text());

    let status = server.wait(GRACE + Duration::from_secs(2));
    assert_eq!(status.code(), Some(0), "{}", server.log());
    ended.store(true, Ordering::SeqCst);
    let acknowledged: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert_eq!(odd.load(Ordering::SeqCst), 0, "a status that is not documented");
    assert!(acknowledged > CLIENTS * 3, "{acknowledged}: no load");
    let log = server.log();
    assert!(
        !log.contains("panicked") && !log.contains("grace period is over"),
        "{log}"
    );
    let streamed = stream.join().unwrap().expect("the stream is answered");
    assert_eq!(
        (streamed.status, streamed.kind().as_deref()),
        (503, Some("shutting-down")),
        "{}",
        streamed.text()
    );
    let totals: Value = streamed.json()["totals"].clone();
    let told = totals["created"].as_i64().unwrap();
    assert!(told > 100, "{totals}");

    let server = Server::start(&url, &[]);
    let kept = count(&server, "single");
    // A connection that was closed may have lost the answer to one pair that is committed, never the other way round.
    assert!(
        (i64::from(acknowledged)..=i64::from(acknowledged + CLIENTS)).contains(&kept),
        "{acknowledged} acknowledged, {kept} kept"
    );
    assert_eq!(
        count(&server, "streamed"),
        told,
        "the totals are those of what is committed"
    );
}

#[test]
fn an_idle_server_ends_at_once_and_a_second_signal_ends_any() {
    let mut idle = Server::start("sqlite::memory:", &[]);
    let _open = TcpStream::connect(idle.address()).unwrap();
    let asked = Instant::now();
    idle.terminate();
    assert_eq!(idle.wait(Duration::from_secs(5)).code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    let mut stuck = Server::start("sqlite::memory:", &["--shutdown-grace-seconds", "60"]);
    let mut client = TcpStream::connect(stuck.address()).unwrap();
    client
        .write_all(
            b"POST /v1/pairs HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        )
        .unwrap();
    thread::sleep(Duration::from_millis(300));
    stuck.terminate();
    thread::sleep(Duration::from_millis(700));
    stuck.terminate();
    assert_eq!(stuck.wait(Duration::from_secs(5)).code(), Some(130));
}
