//! The chunks of a stream that are being committed, and the lines that repeat a pair of one of them.
//!
//! Such a line is not sent beside the pair that it repeats, and not counted as one with it either: its pair may be observed after a removal that the
//! chunk came before. It waits until the chunk has landed, and is judged then, by what is known to be committed.

use std::future::Future;

use foldhash::{HashMap, HashSet};
use tokio::task::JoinSet;

use super::chunk::{Lines, Taken};
use crate::api::problem::{Kind, Problem};
use crate::counting::Pair;
use crate::ledger::Recording;
use crate::service::ServiceError;

/// What the recorder answers.
pub(super) type Answer = Result<Vec<Recording>, ServiceError>;

/// Chunks under way.
#[derive(Default)]
pub(super) struct Flights {
    chunks: JoinSet<(u64, Lines, Answer)>,
    aloft: HashMap<u64, Aloft>,
    next: u64,
    waiting: usize,
}

#[derive(Default)]
struct Aloft {
    keys: HashSet<u64>,
    repeats: Vec<(u64, Pair)>,
}

/// A chunk that was answered.
pub(super) struct Landed {
    pub(super) lines: Lines,
    pub(super) answer: Answer,
    /// The lines that waited for it.
    pub(super) repeats: Vec<(u64, Pair)>,
}

impl Flights {
    /// How many chunks are under way.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// How many lines wait for one of them.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Lets a line wait for the chunk that has a pair of the same key; gives the pair back where none has. That two keys meet by chance makes a
    /// line wait, and nothing else.
    pub(super) fn wait(&mut self, key: Option<u64>, line: u64, pair: Pair) -> Option<Pair> {
        let aloft = key.and_then(|key| self.aloft.values_mut().find(|aloft| aloft.keys.contains(&key)));
        let Some(aloft) = aloft else { return Some(pair) };
        aloft.repeats.push((line, pair));
        self.waiting += 1;
        None
    }

    /// Sends a chunk off; `commit` records its pairs.
    pub(super) fn send<F>(&mut self, chunk: Taken, commit: impl FnOnce(Vec<Pair>) -> F)
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let Taken { pairs, lines, keys } = chunk;
        let (number, answer) = (self.next, commit(pairs));
        self.next += 1;
        let keys = keys.into_iter().collect();
        self.aloft.insert(
            number,
            Aloft {
                keys,
                repeats: Vec::new(),
            },
        );
        self.chunks.spawn(async move { (number, lines, answer.await) });
    }

    /// The next chunk that lands; `None` where none is under way. To leave its wait loses nothing.
    pub(super) async fn land(&mut self) -> Option<Result<Landed, Problem>> {
        let joined = self.chunks.join_next().await?;
        Some(match joined {
            Ok((number, lines, answer)) => {
                let repeats = self.aloft.remove(&number).unwrap_or_default().repeats;
                self.waiting -= repeats.len();
                Ok(Landed { lines, answer, repeats })
            }
            Err(_) => Err(Problem::new(
                Kind::Internal,
                "a part of the stream was lost; send it again",
            )),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::batch::chunk::Chunk;
    use crate::counting::{SegmentName, UserId};

    fn pair(user: &str) -> Pair {
        Pair {
            user: UserId::new(user).unwrap(),
            segment: SegmentName::new("s").unwrap(),
            observed_at: None,
            ttl: None,
        }
    }

    #[tokio::test]
    async fn a_line_waits_for_the_chunk_that_has_its_pair_and_no_other_does() {
        let (mut chunk, mut flights) = (Chunk::default(), Flights::default());
        let (send, sent) = tokio::sync::oneshot::channel::<()>();
        chunk.push(1, pair("a"));
        flights.send(chunk.take(1), |pairs| async move {
            sent.await.unwrap();
            assert_eq!(pairs, [pair("a")]);
            Ok(Vec::new())
        });
        assert_eq!(flights.wait(chunk.key(&pair("a")), 2, pair("a")), None);
        assert_eq!(flights.wait(chunk.key(&pair("b")), 3, pair("b")), Some(pair("b")));
        let dated = Pair {
            observed_at: Some(jiff::Timestamp::UNIX_EPOCH),
            ..pair("a")
        };
        assert_eq!(flights.wait(chunk.key(&dated), 4, dated.clone()), Some(dated));
        assert_eq!((flights.len(), flights.waiting()), (1, 1));
        send.send(()).unwrap();
        let landed = flights.land().await.unwrap().ok().unwrap();
        assert_eq!(landed.repeats, [(2, pair("a"))]);
        assert_eq!((flights.len(), flights.waiting()), (0, 0));
        assert!(flights.land().await.is_none());
    }
}
