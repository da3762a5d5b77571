//! HTTP by hand, over a socket of its own for each request: what a well-behaved client library would never send must be sendable here.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

/// Longer than the server's own patience with a body.
const PATIENCE: Duration = Duration::from_secs(100);

/// What follows the header.
pub enum Body {
    Empty,
    /// Announced by its length.
    Whole(Vec<u8>),
    /// In chunks of unannounced number; `None` from the iterator ends it properly.
    Chunks(Box<dyn Iterator<Item = Vec<u8>> + Send>),
    /// Chunks, and then silence: the connection stays open and the body never ends.
    Stalls(Vec<u8>),
    /// Chunks, and then the client's end of the connection closes in the middle of the body.
    BreaksOff(Vec<u8>),
}

pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

pub fn request(method: &str, path: &str) -> Request {
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: Body::Empty,
    }
}

pub fn get(path: &str) -> Request {
    request("GET", path)
}

/// A POST of JSON.
pub fn post(path: &str, body: impl AsRef<[u8]>) -> Request {
    request("POST", path)
        .header("Content-Type", "application/json")
        .body(body)
}

pub fn put(path: &str, body: impl AsRef<[u8]>) -> Request {
    request("PUT", path)
        .header("Content-Type", "application/json")
        .body(body)
}

/// A POST of lines.
pub fn stream(body: impl AsRef<[u8]>) -> Request {
    request("POST", "/v1/pairs:batch")
        .header("Content-Type", "application/x-ndjson")
        .body(body)
}

impl Request {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Body::Whole(body.as_ref().to_vec());
        self
    }

    pub fn chunks(mut self, chunks: impl Iterator<Item = Vec<u8>> + Send + 'static) -> Self {
        self.body = Body::Chunks(Box::new(chunks));
        self
    }

    pub fn stalls(mut self, begin: impl AsRef<[u8]>) -> Self {
        self.body = Body::Stalls(begin.as_ref().to_vec());
        self
    }

    pub fn breaks_off(mut self, begin: impl AsRef<[u8]>) -> Self {
        self.body = Body::BreaksOff(begin.as_ref().to_vec());
        self
    }

    pub fn gzip(self) -> Self {
        self.header("Content-Encoding", "gzip")
    }

    pub fn token(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    fn head(&self) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n",
            self.method, self.path
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &self.body {
            Body::Empty if self.method == "POST" || self.method == "PUT" => head.push_str("Content-Length: 0\r\n"),
            Body::Empty => {}
            Body::Whole(bytes) => head.push_str(&format!("Content-Length: {}\r\n", bytes.len())),
            _ => head.push_str("Transfer-Encoding: chunked\r\n"),
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Sends it and reads the answer while the body may still be under way.
    pub fn send(self, address: &str) -> Option<Answer> {
        let head = self.head();
        let socket = connect(address);
        let mut writing = socket.try_clone().unwrap();
        let writer = std::thread::spawn(move || {
            // A server that has answered reads no further: that the rest cannot be written is no failure.
            let _ = write(&mut writing, &head, self.body);
        });
        let answer = read(&socket);
        let _ = socket.shutdown(Shutdown::Both);
        writer.join().unwrap();
        answer
    }
}

fn write(socket: &mut TcpStream, head: &[u8], body: Body) -> std::io::Result<()> {
    let chunk = |socket: &mut TcpStream, bytes: &[u8]| {
        socket.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        socket.write_all(bytes)?;
        socket.write_all(b"\r\n")
    };
    socket.write_all(head)?;
    match body {
        Body::Empty => Ok(()),
        Body::Whole(bytes) => socket.write_all(&bytes),
        Body::Chunks(chunks) => {
            for bytes in chunks {
                chunk(socket, &bytes)?;
            }
            socket.write_all(b"0\r\n\r\n")
        }
        Body::Stalls(bytes) => chunk(socket, &bytes),
        Body::BreaksOff(bytes) => {
            chunk(socket, &bytes)?;
            socket.shutdown(Shutdown::Write)
        }
    }
}

/// Sends bytes as they are, then reads to the end; `None` where the connection was closed without a word.
pub fn raw(address: &str, bytes: &[u8]) -> Option<Answer> {
    let mut socket = connect(address);
    // It may be refused before its end, as above.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    read(&socket)
}

fn connect(address: &str) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the server takes connections");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn read(mut socket: &TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A reset after the answer loses nothing of what was read.
    if let Err(error) = socket.read_to_end(&mut bytes) {
        assert!(
            error.kind() != std::io::ErrorKind::WouldBlock,
            "no answer within {PATIENCE:?}"
        );
    }
    Answer::parse(&bytes)
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let body = bytes[end + 4..].to_vec();
        Some(Self { status, headers, body })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The last word of a problem's type.
    pub fn kind(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        let address = body["type"].as_str()?;
        Some(address.strip_prefix("https://segmentcounter.io/problems/")?.to_owned())
    }
}

/// One member of a gzip file.
pub fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}
