//! What the real program holds while it is sent what nobody can keep.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use async_compression::Level;
use async_compression::tokio::bufread::ZstdEncoder;
use async_compression::zstd::CParameter;
use rand::{RngExt, SeedableRng};
use tokio::io::AsyncReadExt;

use crate::support::server::Server;

/// What a debug build may ever hold, whatever is sent to it: the budget of all bodies (64 MiB), twice for a buffer that grows, and room.
const MOST_MIB: u64 = 256;
/// More than that in one line.
const LINE_MIB: usize = 320;
/// The largest array.
const ARRAY_MIB: usize = 8;
/// What all bodies that are read as a whole may hold together.
const BUDGET_MIB: usize = 64;
/// The largest window of zstd that is borne, as a power of two: 8 MiB.
const WINDOW_LOG: u32 = 23;
const WINDOW_MIB: u64 = 1 << (WINDOW_LOG - 20);
/// What a connection may take beside: buffers of the socket, of the decoder, of a line and of a chunk.
const BESIDE_MIB: u64 = 1;
/// What the process takes once when it begins to work: what its threads keep, and the ledger's cache.
const ONCE_MIB: u64 = 16;
/// Clients at once.
const MANY: usize = 32;
/// Bodies of zstd that are read at once: the others wait.
const WINDOWS: usize = 16;

/// A body under way, sent in chunks.
struct Client(TcpStream);

impl Client {
    /// Begins a request to `/v1/pairs:batch`.
    fn begin(server: &Server, media_type: &str, encoding: &str) -> Self {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        let head = format!(
            "POST /v1/pairs:batch HTTP/1.1\r\nHost: x\r\nContent-Type: {media_type}\r\nContent-Encoding: {encoding}\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        Self(socket)
    }

    /// Sends a piece; an empty one is the end.
    fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        self.0.write_all(&chunk)
    }

    /// Whether an answer has begun to come, or the connection has ended.
    fn is_answered(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let peeked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The whole answer; empty where the connection was closed while there was more to read.
    fn answer(mut self) -> String {
        let mut answer = Vec::new();
        let _ = self.0.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// A frame of zstd with the largest window.
fn wide(bytes: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let window = [CParameter::window_log(WINDOW_LOG)];
    let mut frame = Vec::new();
    let mut encoder = ZstdEncoder::with_quality_and_params(bytes, Level::Fastest, &window);
    runtime.block_on(encoder.read_to_end(&mut frame)).unwrap();
    frame
}

/// The answer to a small GET.
fn get(server: &Server, path: &str) -> String {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    Client(socket).answer()
}

#[test]
fn a_line_without_an_end_is_not_kept() {
    let server = Server::start("sqlite::memory:", &[]);
    let mut dice = rand::rngs::StdRng::seed_from_u64(4);
    let mut client = Client::begin(&server, "application/x-ndjson", "identity");
    client
        .send(b"{\"user_id\":\"u\",\"segment\":\"s\"}\n{\"user_id\":\"")
        .unwrap();
    let begun = server.peak_mib();
    let mut piece = vec![0_u8; 1 << 20];
    let mut sent = 0;
    // It is given up as no stream of pairs long before all of it was read.
    while sent < LINE_MIB {
        dice.fill(&mut piece[..]);
        piece
            .iter_mut()
            .filter(|byte| **byte == b'\n')
            .for_each(|byte| *byte = b'x');
        if client.send(&piece).is_err() {
            break;
        }
        sent += 1;
    }
    let _ = client.send(b"");
    let answer = client.answer();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(sent > 32, "it was given up after {sent} MiB");
    let (peak, held) = (server.peak_mib(), server.peak_mib() - begun);
    assert!(
        peak <= MOST_MIB && held <= 48,
        "{peak} MiB, {held} of them for one line"
    );
}

#[test]
fn an_array_without_an_end_is_held_up_to_its_limit() {
    let server = Server::start("sqlite::memory:", &[]);
    let begun = server.peak_mib();
    let mut client = Client::begin(&server, "application/json", "identity");
    let pairs = b"{\"user_id\":\"u\",\"segment\":\"s\"},".repeat(1 << 15);
    let mut sent = client.send(b"[").map_or(0, |()| 1);
    while sent < LINE_MIB << 20 && client.send(&pairs).is_ok() {
        sent += pairs.len();
    }
    let _ = client.send(b"");
    let answer = client.answer();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    // What lies in the sockets was sent too; it was given up all the same.
    assert!(
        (ARRAY_MIB << 20..LINE_MIB << 20).contains(&sent),
        "{sent} bytes were sent"
    );
    let held = server.peak_mib() - begun;
    // Twice for a buffer that grows.
    assert!(held <= 2 * ARRAY_MIB as u64 + ONCE_MIB, "{held} MiB for one array");
}

#[test]
fn many_arrays_at_once_hold_no_more_than_the_budget_of_all_bodies() {
    let server = Server::start("sqlite::memory:", &[]);
    let begun = server.peak_mib();
    // A single string, so that the whole of it is an item which somebody has to judge. Packed it is small, and unpacked 7 MiB.
    let each = ARRAY_MIB - 1;
    let body = wide(format!("[\"{}", "x".repeat(each << 20)).as_bytes());
    let mut clients: Vec<_> = (0..MANY)
        .map(|number| {
            let mut client = Client::begin(&server, "application/json", "zstd");
            client.send(&body).unwrap();
            // The first ones have the time to take all of the budget; the others find it taken.
            std::thread::sleep(Duration::from_millis(if number < 12 { 100 } else { 0 }));
            client
        })
        .collect();
    // None of them ends: either it is refused, or it is held.
    let (mut waiting, mut since) = (MANY, Instant::now());
    while since.elapsed() < Duration::from_millis(1_500) {
        let now = clients.iter().filter(|client| !client.is_answered()).count();
        if now != waiting {
            (waiting, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let held = server.peak_mib() - begun;
    assert!(
        (1..=BUDGET_MIB / each).contains(&waiting),
        "{waiting} of {MANY} arrays of {each} MiB are held"
    );
    // The budget, twice for buffers that grow, and what unpacks: a window for each array that is held.
    let windows = waiting as u64 * WINDOW_MIB;
    let most = 2 * BUDGET_MIB as u64 + windows + MANY as u64 * BESIDE_MIB + ONCE_MIB;
    assert!(
        held <= most,
        "{held} MiB are held for {waiting} arrays, of at most {most}"
    );

    let end = wide(b"\"]");
    for client in clients.iter_mut().filter(|client| !client.is_answered()) {
        client.send(&end).unwrap();
        client.send(b"").unwrap();
    }
    let answers: Vec<String> = clients.into_iter().map(Client::answer).collect();
    let with = |status: &str| answers.iter().filter(|answer| answer.starts_with(status)).count();
    assert_eq!(
        (with("HTTP/1.1 200"), with("HTTP/1.1 503")),
        (waiting, MANY - waiting),
        "{answers:?}"
    );
    let held = server.peak_mib() - begun;
    assert!(held <= most, "{held} MiB were held in the end, of at most {most}");
}

#[test]
fn a_stream_costs_its_window_and_so_many_are_read_at_once() {
    let server = Server::start("sqlite::memory:", &[]);
    // A byte more than 8 MiB is no window that is borne; the frame says so in its sixth byte, and holds nothing.
    for (window, status) in [(0x68, "HTTP/1.1 200"), (0x69, "HTTP/1.1 400")] {
        let mut client = Client::begin(&server, "application/x-ndjson", "zstd");
        client.send(&[0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0]).unwrap();
        client.send(b"").unwrap();
        let answer = client.answer();
        assert!(answer.starts_with(status), "{window:x}: {answer}");
    }
    let begun = server.peak_mib();
    // A line that fills the window, and a pair behind it that tells when it was read.
    let line = wide(&vec![b'x'; (WINDOW_MIB as usize + 1) << 20]);
    let mut clients = Vec::new();
    let begin = |number: usize| {
        let mut client = Client::begin(&server, "application/x-ndjson", "zstd");
        let pair = format!("\n{{\"user_id\":\"{number}\",\"segment\":\"wide\"}}\n");
        client.send(&[&line[..], &wide(pair.as_bytes())].concat()).unwrap();
        client
    };
    let counted = || get(&server, "/v1/segments/wide/count?max_staleness_ms=0");
    let until = |many: usize| {
        let (wanted, since) = (format!("\"count\":{many},"), Instant::now());
        loop {
            let count = counted();
            if count.contains(&wanted) {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(15), "{many} streams: {count}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    for many in [1, WINDOWS] {
        let most = many as u64 * (WINDOW_MIB + BESIDE_MIB) + ONCE_MIB;
        while clients.len() < many {
            clients.push(begin(clients.len()));
        }
        until(many);
        // Each of them waits for more with its window full.
        assert!(clients.iter().all(|client| !client.is_answered()));
        let held = server.peak_mib() - begun;
        assert!(held <= most, "{held} MiB for {many} streams, of at most {most}");
        assert!(
            held >= WINDOW_MIB / 2 * many as u64,
            "{held} MiB for {many} streams: no window was filled"
        );
    }
    // One more waits until another one has ended.
    let waiting = begin(WINDOWS);
    std::thread::sleep(Duration::from_millis(500));
    assert!(counted().contains(&format!("\"count\":{WINDOWS},")));
    clients.push(waiting);
    for (number, mut client) in clients.into_iter().enumerate() {
        if number == WINDOWS {
            until(WINDOWS + 1);
        }
        client.send(b"").unwrap();
        let answer = client.answer();
        for wanted in ["HTTP/1.1 200", "\"received\":2,", "\"created\":1,", "\"invalid\":1,"] {
            assert!(answer.contains(wanted), "{wanted}: {answer}");
        }
    }
}
