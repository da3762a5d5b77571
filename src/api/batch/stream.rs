//! NDJSON of any length in bounded memory: lines become chunks, chunks go through the recorder a few at a time, and where the ledger is slow the
//! client's socket is simply not read.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use bytes::Bytes;
use tokio::time::Instant;

use super::chunk::Chunk;
use super::flights::{Flights, Landed};
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
/// How many lines may wait for chunks under way, for each pair of a full chunk.
const MAX_WAITING: usize = 10;
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

/// The same in time: a byte now and then keeps a stream's turn from the others.
const MAX_BARREN_TIME: Duration = Duration::from_secs(300);

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
    let ended = stream.run(Decoded::new(headers, body, api.bodies()).await?).await;
    // What is under way is answered in any case: the totals are those of what is committed.
    let drained = stream.drain().await;
    stream.totals.sort();
    match ended.and(drained) {
        Ok(()) => Ok(stream.totals),
        Err(mut problem) => {
            if problem.kind == Kind::Overloaded {
                problem.detail =
                    "no more of the stream was taken; `totals` say what was before. To send all of it again is safe"
                        .into();
            }
            Err(problem.with("totals", &stream.totals))
        }
    }
}

struct Stream<'a> {
    api: &'a Api,
    totals: Totals,
    lines: Lines,
    chunk: Chunk,
    barren: usize,
    barren_lines: u64,
    /// When a good pair last came.
    good_at: Instant,
    flights: Flights,
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
            good_at: Instant::now(),
            flights: Flights::default(),
        }
    }

    async fn run(&mut self, mut body: Decoded) -> Result<(), Problem> {
        let api = self.api;
        let mut closing = std::pin::pin!(api.streams_must_end());
        loop {
            let piece = tokio::select! {
                piece = body.next() => piece?,
                // Nothing of the body is lost by leaving its wait: it is taken up again.
                () = lingered(self.chunk.since()) => {
                    self.send_chunk(self.chunk.len()).await?;
                    continue;
                }
                // Who waits for a chunk is judged as soon as it has landed.
                Some(landed) = self.flights.land(), if self.flights.waiting() > 0 => {
                    self.answer(landed)?;
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
        let mut sorter = Sorter::new(api, &mut self.chunk, &mut self.flights, &mut self.totals);
        self.lines.end(|number, line| sorter.line(number, line));
        loop {
            while !self.chunk.is_empty() {
                self.send_chunk(api.service().commit_pairs()).await?;
            }
            if self.flights.waiting() == 0 {
                return Ok(());
            }
            self.land().await?;
        }
    }

    /// Lines that were pairs: those that were known to change nothing, and those that are to be committed.
    fn good_lines(&self) -> u64 {
        self.totals.answered() + (self.chunk.lines() + self.flights.waiting()) as u64
    }

    async fn take(&mut self, piece: &Bytes) -> Result<(), Problem> {
        let (good, bad) = (self.good_lines(), self.totals.bad_lines());
        let api = self.api;
        let mut sorter = Sorter::new(api, &mut self.chunk, &mut self.flights, &mut self.totals);
        self.lines.feed(piece, |number, line| sorter.line(number, line));
        if self.good_lines() > good {
            (self.barren, self.barren_lines) = (0, 0);
            self.good_at = Instant::now();
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
        if self.good_at.elapsed() > MAX_BARREN_TIME {
            let minutes = MAX_BARREN_TIME.as_secs() / 60;
            let detail = format!("there was no pair within {minutes} minutes; the rest was not read");
            return Err(Problem::new(Kind::BodyTimeout, detail));
        }
        let full = api.service().commit_pairs();
        loop {
            if self.chunk.is_full(full) {
                self.send_chunk(full).await?;
            } else if self.flights.waiting() > full * MAX_WAITING {
                self.land().await?;
            } else {
                return Ok(());
            }
        }
    }

    /// Hands the first `size` pairs to the recorder, once there is room for another chunk.
    async fn send_chunk(&mut self, size: usize) -> Result<(), Problem> {
        while self.flights.len() >= CHUNKS_UNDER_WAY {
            self.land().await?;
        }
        let service = Arc::clone(self.api.service());
        let commit = |pairs| async move { record_patiently(&service, pairs).await };
        self.flights.send(self.chunk.take(size), commit);
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), Problem> {
        let mut first = Ok(());
        while let Some(landed) = self.flights.land().await {
            let answer = self.answer(landed);
            first = first.and(answer);
        }
        first
    }

    async fn land(&mut self) -> Result<(), Problem> {
        match self.flights.land().await {
            Some(landed) => self.answer(landed),
            None => Ok(()),
        }
    }

    fn answer(&mut self, landed: Result<Landed, Problem>) -> Result<(), Problem> {
        let Landed { lines, answer, repeats } = landed?;
        lines.answered(&answer?, &mut self.totals);
        let mut sorter = Sorter::new(self.api, &mut self.chunk, &mut self.flights, &mut self.totals);
        for (number, pair) in repeats {
            sorter.pair(number, pair);
        }
        Ok(())
    }
}

/// Waits until what waits since then is to be sent; for ever where nothing does.
async fn lingered(since: Option<Instant>) {
    match since {
        Some(since) => tokio::time::sleep_until(since + LINGER).await,
        None => std::future::pending().await,
    }
}

/// Where lines go.
struct Sorter<'a> {
    api: &'a Api,
    chunk: &'a mut Chunk,
    flights: &'a mut Flights,
    totals: &'a mut Totals,
}

impl<'a> Sorter<'a> {
    fn new(api: &'a Api, chunk: &'a mut Chunk, flights: &'a mut Flights, totals: &'a mut Totals) -> Self {
        Self {
            api,
            chunk,
            flights,
            totals,
        }
    }

    fn line(&mut self, number: u64, line: Line<'_>) {
        match line {
            Line::Text(text) => match pair::parse(text, self.api.rules()) {
                Ok(pair) => self.pair(number, pair),
                Err(problem) => self.totals.invalid(Place::Line(number), problem),
            },
            Line::TooLong => {
                let detail = format!("the line is longer than {MAX_PAIR_BYTES} bytes and was skipped");
                self.totals
                    .invalid(Place::Line(number), Problem::new(Kind::BodyTooLarge, detail));
            }
        }
    }

    /// A pair that is known to change nothing is answered; one that repeats a pair under way waits for it; the others are to be committed.
    fn pair(&mut self, number: u64, pair: Pair) {
        if let Some(recording) = self.api.service().repeat(&pair) {
            return self.totals.recorded(Place::Line(number), recording);
        }
        if let Some(pair) = self.flights.wait(self.chunk.key(&pair), number, pair) {
            self.chunk.push(number, pair);
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
