//! What the real program holds while it is sent what nobody can keep.

use std::io::{Read, Write};
use std::net::TcpStream;

use rand::{RngExt, SeedableRng};

use crate::support::server::Server;

/// What a debug build may ever hold, whatever is sent to it: the budget of all bodies (64 MiB), twice for a buffer that grows, and room.
const MOST_MIB: u64 = 256;
/// More than that in one line.
const LINE_MIB: usize = 320;

#[test]
fn a_line_without_an_end_is_not_kept() {
    let server = Server::start("sqlite::memory:", &[]);
    let mut dice = rand::rngs::StdRng::seed_from_u64(4);
    let mut socket = TcpStream::connect(server.address()).unwrap();
    let head = "POST /v1/pairs:batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut send = |piece: &[u8]| {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        socket.write_all(&chunk)
    };
    send(b"{\"user_id\":\"u\",\"segment\":\"s\"}\n{\"user_id\":\"").unwrap();
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
        if send(&piece).is_err() {
            break;
        }
        sent += 1;
    }
    let _ = send(b"");
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(sent > 32, "it was given up after {sent} MiB");
    let (peak, held) = (server.peak_mib(), server.peak_mib() - begun);
    assert!(
        peak <= MOST_MIB && held <= 48,
        "{peak} MiB, {held} of them for one line"
    );
}
