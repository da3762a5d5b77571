//! Reading a body within bounds: its encoding undone, its size counted after that, and no wait for a client that has gone quiet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::{Body, BodyDataStream, HttpBody as _};
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::io::StreamReader;

use super::problem::{Kind, Problem};

/// The largest window of a zstd frame, as a power of two: 8 MiB, what every decoder must bear and no more. A frame says itself how much
/// memory its decoder needs.
const ZSTD_WINDOW_LOG: u32 = 23;
/// How many bodies of zstd are read at once: each may have a window.
const ZSTD_BODIES: usize = 16;
/// How long another one waits for its turn.
const ZSTD_TURN: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ_BYTES: usize = 32 * 1024;
/// From here on a body counts against the budget of all bodies.
const FREE_BYTES: usize = 16 * 1024;

/// What bodies may cost.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// How long a client may send nothing in the middle of a body.
    pub idle: Duration,
    /// How long a body may take that is read as a whole.
    pub whole: Duration,
    /// The bytes that bodies read as a whole may hold together.
    pub budget: Arc<Semaphore>,
    /// The bodies of zstd that may be read at once.
    pub zstd: Arc<Semaphore>,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(20),
            whole: Duration::from_secs(60),
            budget: Arc::new(Semaphore::new(64 * 1024 * 1024)),
            zstd: Arc::new(Semaphore::new(ZSTD_BODIES)),
        }
    }
}

impl BodyLimits {
    /// Waits for the place of one more window.
    async fn window(&self) -> Result<OwnedSemaphorePermit, Problem> {
        match tokio::time::timeout(ZSTD_TURN, Arc::clone(&self.zstd).acquire_owned()).await {
            Ok(Ok(window)) => Ok(window),
            _ => {
                let detail = format!(
                    "{ZSTD_BODIES} bodies of zstd are being read, and more are not read at once; nothing of this one was taken, \
                     send it again, or as gzip"
                );
                Err(Problem::new(Kind::Overloaded, detail).retry_after(Duration::from_secs(5)))
            }
        }
    }
}

/// The body's media type, without parameters, in lower case.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// A body with its encoding undone, piece by piece.
pub(crate) struct Decoded {
    inner: Inner,
    _window: Option<OwnedSemaphorePermit>,
    idle: Duration,
}

enum Inner {
    Plain(BodyDataStream),
    Encoded(Pin<Box<dyn AsyncRead + Send>>),
}

impl Decoded {
    /// A body as the header says that it is encoded: not at all, by gzip or by zstd.
    pub(crate) async fn new(headers: &HeaderMap, body: Body, limits: &BodyLimits) -> Result<Self, Problem> {
        let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
        let encoding = encodings
            .next()
            .map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
        if encodings.next().is_some() {
            return Err(unsupported_encoding());
        }
        let stream = body.into_data_stream();
        let mut held = None;
        let inner = match encoding.as_deref() {
            None | Some("" | "identity") => Inner::Plain(stream),
            Some("gzip" | "x-gzip") => {
                let mut decoder = GzipDecoder::new(reader(stream));
                // `cat a.gz b.gz` is a gzip file.
                decoder.multiple_members(true);
                Inner::Encoded(Box::pin(decoder))
            }
            Some("zstd") => {
                held = Some(limits.window().await?);
                let window = DParameter::window_log_max(ZSTD_WINDOW_LOG);
                let mut decoder = ZstdDecoder::with_params(reader(stream), &[window]);
                decoder.multiple_members(true);
                Inner::Encoded(Box::pin(decoder))
            }
            Some(_) => return Err(unsupported_encoding()),
        };
        Ok(Self {
            inner,
            _window: held,
            idle: limits.idle,
        })
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match tokio::time::timeout(self.idle, self.piece()).await {
            Err(_) => Err(timeout(self.idle)),
            Ok(piece) => piece,
        }
    }

    /// Whether nothing follows, where that is known without a wait.
    fn is_at_end(&self) -> bool {
        match &self.inner {
            Inner::Plain(stream) => stream.is_end_stream(),
            Inner::Encoded(_) => false,
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, Problem> {
        let piece = match &mut self.inner {
            Inner::Plain(stream) => stream.try_next().await.map_err(io::Error::other),
            Inner::Encoded(reader) => {
                let mut piece = BytesMut::with_capacity(READ_BYTES);
                let read = reader.read_buf(&mut piece).await;
                read.map(|bytes| (bytes > 0).then(|| piece.freeze()))
            }
        };
        // The text of the decoder or the connection says nothing that helps a client more than this.
        piece.map_err(|_| {
            Problem::new(
                Kind::MalformedBody,
                "the body ended early, or is not encoded as Content-Encoding says",
            )
        })
    }
}

type Reader = StreamReader<Pin<Box<dyn futures_util::Stream<Item = io::Result<Bytes>> + Send>>, Bytes>;

fn reader(stream: BodyDataStream) -> Reader {
    StreamReader::new(Box::pin(stream.map_err(io::Error::other)))
}

/// A body that was read as a whole; what it holds of the budget comes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) bytes: BytesMut,
    _held: Vec<OwnedSemaphorePermit>,
}

/// Reads a body of at most `limit` bytes after its encoding was undone.
pub(crate) async fn whole(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    limits: &BodyLimits,
) -> Result<Whole, Problem> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|announced| announced > limit) {
        return Err(too_large(limit));
    }
    let mut decoded = Decoded::new(headers, body, limits).await?;
    let mut bytes = BytesMut::new();
    let mut held = Vec::new();
    let until = Instant::now() + limits.whole;
    while !decoded.is_at_end() {
        // One timer for both bounds: for a small body it is most of what the bounds cost.
        let (quiet, whole) = (Instant::now() + limits.idle, until);
        let next = tokio::time::timeout_at(quiet.min(whole), decoded.piece())
            .await
            .map_err(|_| timeout(if quiet < whole { limits.idle } else { limits.whole }))?;
        let Some(piece) = next? else { break };
        let size = bytes.len() + piece.len();
        if size > limit {
            return Err(too_large(limit));
        }
        if size > FREE_BYTES {
            let more = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            match Arc::clone(&limits.budget).try_acquire_many_owned(more) {
                Ok(permit) => held.push(permit),
                Err(_) => {
                    let detail =
                        "the bodies of too many requests are being read; nothing of this one was taken, send it again";
                    return Err(Problem::new(Kind::Overloaded, detail).retry_after(Duration::from_secs(1)));
                }
            }
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Whole { bytes, _held: held })
}

fn too_large(limit: usize) -> Problem {
    let detail = format!(
        "the body is larger than {limit} bytes (counted after its encoding is undone); nothing of it was taken"
    );
    Problem::new(Kind::BodyTooLarge, detail)
}

fn timeout(after: Duration) -> Problem {
    Problem::new(
        Kind::BodyTimeout,
        format!("the rest of the body did not come within {} seconds", after.as_secs()),
    )
}

fn unsupported_encoding() -> Problem {
    Problem::new(
        Kind::UnsupportedMediaType,
        "Content-Encoding must be gzip, zstd or absent",
    )
    .at("Content-Encoding")
}
