//! NDJSON of any length in bounded memory: lines become chunks, chunks go through the recorder a few at a time, and where the ledger is slow the
//! client's socket is simply not read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::chunk::{self, Chunk};
use super::lines::{Line, Lines};
use super::totals::{Place, Totals};
use crate::api::Api;
use crate::api::body::Decoded;
use crate::api::pair;
use crate::api::pairs::MAX_PAIR_BYTES;
use crate::api::problem::{Kind, Problem, shutting_down};
use crate::counting::Pair;
use crate::ledger::Recording;
use crate::service::{Service, ServiceError};

/// Chunks under way at once: one being committed, one ready behind it, one being answered.
const CHUNKS_UNDER_WAY: usize = 4;
/// After how long a chunk is sent although it is not full: a slow client's pairs count too.
const LINGER: Duration = Duration::from_millis(200);
/// How long a chunk is offered to a service that has no room.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a stream waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// How many bytes may pass without one good pair: beyond it this is no stream of pairs, whatever it was compressed from.
const MAX_BARREN_BYTES: usize = 64 * 1024 * 1024;
/// The same in bad lines. To tell what is wrong with one costs more than to record a good one, and a line may have two bytes.
const MAX_BARREN_LINES: u64 = 100_000;

type Answered = (chunk::Lines, Result<Vec<Recording>, ServiceError>);

/// Records every good line; after a failure the problem says how far it came.
pub(super) async fn send(api: &Api, headers: &HeaderMap, body: Body) -> Result<Totals, Problem> {
    let _slot = match tokio::time::timeout(TURN, Arc::clone(api.streams()).acquire_owned()).await {
        Ok(Ok(slot)) => slot,
        Ok(Err(_)) => return Err(shutting_down()),
        Err(_) => {
            let detail = "too many streams are under way; nothing of this one was taken, send it again";
            return Err(Problem::new(Kind::Overloaded, detail).retry_after(Duration::from_secs(5)));
        }
    };
    let mut stream = Stream::new(api);
    let ended = stream.run(Decoded::new(headers, body, api.bodies())?).await;
    // What is under way is answered in any case: the totals are those of what is committed.
    let drained = stream.drain().await;
    stream.totals.sort();
    match ended.and(drained) {
        Ok(()) => Ok(stream.totals),
        Err(problem) => Err(problem.with("totals", &stream.totals)),
    }
}

struct Stream<'a> {
    api: &'a Api,
    totals: Totals,
    lines: Lines,
    chunk: Chunk,
    barren: usize,
    barren_lines: u64,
    under_way: JoinSet<Answered>,
}

impl<'a> Stream<'a> {
    fn new(api: &'a Api) -> Self {
        Self {
            api,
            totals: Totals::default(),
            lines: Lines::default(),
            chunk: Chunk::default(),
            barren: 0,
            barren_lines: 0,
            under_way: JoinSet::new(),
        }
    }

    async fn run(&mut self, mut body: Decoded) -> Result<(), Problem> {
        let api = self.api;
        let mut closing = std::pin::pin!(api.streams_must_end());
        loop {
            let piece = tokio::select! {
                piece = body.next() => piece?,
                // Nothing of the body is lost by leaving its wait: it is taken up again.
                () = tokio::time::sleep(LINGER), if !self.chunk.is_empty() => {
                    self.send_chunk(self.chunk.len()).await?;
                    continue;
                }
                () = &mut closing => return Err(shutting_down()),
            };
            match piece {
                Some(piece) => {
                    self.take(&piece).await?;
                    // What was compressed may bring piece after piece without a wait, and others want this thread too.
                    tokio::task::consume_budget().await;
                }
                None => break,
            }
        }
        let (chunk, totals) = (&mut self.chunk, &mut self.totals);
        self.lines.end(|number, line| sort(api, number, line, chunk, totals));
        while !self.chunk.is_empty() {
            self.send_chunk(api.service().commit_pairs()).await?;
        }
        Ok(())
    }

    /// Lines that were pairs: those that were known to change nothing, and those that are to be committed.
    fn good_lines(&self) -> u64 {
        self.totals.answered() + self.chunk.lines() as u64
    }

    async fn take(&mut self, piece: &Bytes) -> Result<(), Problem> {
        let (good, bad) = (self.good_lines(), self.totals.bad_lines());
        let api = self.api;
        let (chunk, totals) = (&mut self.chunk, &mut self.totals);
        self.lines
            .feed(piece, |number, line| sort(api, number, line, chunk, totals));
        if self.good_lines() > good {
            (self.barren, self.barren_lines) = (0, 0);
        } else {
            self.barren += piece.len();
            self.barren_lines += self.totals.bad_lines() - bad;
        }
        if self.barren > MAX_BARREN_BYTES || self.barren_lines > MAX_BARREN_LINES {
            let detail = format!(
                "there was no pair within {MAX_BARREN_BYTES} bytes (counted after the encoding is undone) or {MAX_BARREN_LINES} lines; the rest was not read"
            );
            return Err(Problem::new(Kind::BodyTooLarge, detail));
        }
        let full = api.service().commit_pairs();
        while self.chunk.is_full(full) {
            self.send_chunk(full).await?;
        }
        Ok(())
    }

    /// Hands the first `size` pairs to the recorder, once there is room for another chunk.
    async fn send_chunk(&mut self, size: usize) -> Result<(), Problem> {
        while self.under_way.len() >= CHUNKS_UNDER_WAY {
            if let Some(answered) = self.under_way.join_next().await {
                self.answer(answered)?;
            }
        }
        let (pairs, lines) = self.chunk.take(size);
        let service = Arc::clone(self.api.service());
        self.under_way
            .spawn(async move { (lines, record_patiently(&service, pairs).await) });
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), Problem> {
        let mut first = Ok(());
        while let Some(answered) = self.under_way.join_next().await {
            let answer = self.answer(answered);
            first = first.and(answer);
        }
        first
    }

    fn answer(&mut self, answered: Result<Answered, JoinError>) -> Result<(), Problem> {
        let (lines, recordings) =
            answered.map_err(|_| Problem::new(Kind::Internal, "a part of the stream was lost; send it again"))?;
        lines.answered(&recordings?, &mut self.totals);
        Ok(())
    }
}

fn sort(api: &Api, number: u64, line: Line<'_>, chunk: &mut Chunk, totals: &mut Totals) {
    match line {
        Line::Text(text) => match pair::parse(text, api.rules()) {
            Ok(pair) => match api.service().repeat(&pair) {
                Some(recording) => totals.recorded(Place::Line(number), recording),
                None => chunk.push(number, pair),
            },
            Err(problem) => totals.invalid(Place::Line(number), problem),
        },
        Line::TooLong => {
            let detail = format!("the line is longer than {MAX_PAIR_BYTES} bytes and was skipped");
            totals.invalid(Place::Line(number), Problem::new(Kind::BodyTooLarge, detail));
        }
    }
}

/// Offers a chunk until there is room for it: a stream waits where a single request would be told to come again.
async fn record_patiently(service: &Service, pairs: Vec<Pair>) -> Result<Vec<Recording>, ServiceError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match service.record_many(pairs.clone()).await {
            Err(ServiceError::Overloaded { retry_after }) if Instant::now() < until => {
                tokio::time::sleep(retry_after.min(Duration::from_millis(250))).await;
            }
            answered => return answered,
        }
    }
}
