//! Single-flight for the ledger's reads: one statement a key at a time, a bounded number of statements at once, and what waits gathers into
//! the next.
//!
//! A lone read is sent at once. Who joins a flight says which: only one whose statement has not been sent yet (then the answer holds
//! everything that was committed before the join), or also one under way.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ledger::LedgerError;

use super::ServiceError;

/// The most keys of one statement.
const MAX_KEYS: usize = 256;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest that a reader waits, for the flights before its own too. A name, a count and what is read again of several are three of these: within the
/// 15 s in which every answer comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// What is said where that passed and no statement was sent.
const UNSENT: &str = "no statement could be sent yet, behind those of others";

/// Which flights a reader may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// One whose statement has not been sent yet.
    Unsent,
    /// Also one that is under way.
    Any,
}

/// What a flight brought.
#[derive(Debug, Clone)]
pub(crate) struct Landed<V> {
    pub(crate) value: V,
    /// An instant before the statement was sent.
    pub(crate) sent: Instant,
}

pub(crate) type Outcome<V> = Result<Landed<V>, ServiceError>;
type Apart<K> = dyn Fn(&K) -> usize + Send + Sync;
type Fetch<K, V> = dyn Fn(Vec<K>) -> BoxFuture<'static, Result<Vec<V>, LedgerError>> + Send + Sync;

pub(crate) struct Gather<K, V> {
    inner: Arc<Inner<K, V>>,
}

struct Inner<K, V> {
    fetch: Box<Fetch<K, V>>,
    apart: Box<Apart<K>>,
    max_flights: usize,
    max_waiters: usize,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    /// Keys that wait for a statement, in the order of their first reader.
    order: VecDeque<K>,
    waiting: HashMap<K, Vec<oneshot::Sender<Outcome<V>>>>,
    flying: HashMap<K, Vec<oneshot::Sender<Outcome<V>>>>,
    flights: usize,
    waiters: usize,
}

impl<K, V> Gather<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + 'static,
{
    /// Keys that `apart` tells apart are never in one flight: their statements would be several.
    pub(crate) fn new(
        max_flights: usize,
        max_waiters: usize,
        apart: impl Fn(&K) -> usize + Send + Sync + 'static,
        fetch: impl Fn(Vec<K>) -> BoxFuture<'static, Result<Vec<V>, LedgerError>> + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            order: VecDeque::new(),
            waiting: HashMap::new(),
            flying: HashMap::new(),
            flights: 0,
            waiters: 0,
        };
        let inner = Inner {
            fetch: Box::new(fetch),
            apart: Box::new(apart),
            max_flights: max_flights.max(1),
            max_waiters: max_waiters.max(1),
            state: Mutex::new(state),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Reads many keys, gathered before anything is sent; answers in their order, an error for each that does not come in time.
    pub(crate) async fn get_many(
        &self,
        keys: impl IntoIterator<Item = (K, Join)>,
        patience: Duration,
    ) -> Vec<Outcome<V>> {
        let receivers: Vec<_> = {
            let mut state = self.inner.lock();
            let enter = |(key, join): (K, Join)| (key.clone(), state.enter(key, join, self.inner.max_waiters));
            keys.into_iter().map(enter).collect()
        };
        let until = Instant::now() + patience;
        if let Some(flight) = Inner::board(&self.inner) {
            if receivers.len() > 1 {
                // More than one may leave: keys of another kind, or more than one flight takes.
                Inner::pump(&self.inner);
            }
            // Given up, it lands all the same, for the others.
            let _ = tokio::time::timeout_at(until, flight).await;
        }
        let mut outcomes = Vec::with_capacity(receivers.len());
        for (key, receiver) in receivers {
            outcomes.push(match receiver {
                Some(receiver) => match tokio::time::timeout_at(until, receiver).await {
                    Ok(landed) => landed.unwrap_or_else(|_| Err(gone())),
                    Err(_) => Err(self.too_long(&key, patience)),
                },
                None => Err(ServiceError::Overloaded {
                    retry_after: RETRY_AFTER,
                }),
            });
        }
        outcomes
    }

    fn too_long(&self, key: &K, patience: Duration) -> ServiceError {
        let sent = self.inner.lock().flying.contains_key(key);
        let why = if sent {
            format!("no answer came in {patience:?}")
        } else {
            UNSENT.to_owned()
        };
        LedgerError::Timeout(why).into()
    }
}

/// Whether an error says nothing of the ledger: what was waited for was never sent.
pub(crate) fn was_never_sent(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Ledger(LedgerError::Timeout(why)) if why == UNSENT)
}

impl<K: Clone + Eq + Hash, V> State<K, V> {
    fn enter(&mut self, key: K, join: Join, max_waiters: usize) -> Option<oneshot::Receiver<Outcome<V>>> {
        if self.waiters >= max_waiters {
            return None;
        }
        self.waiters += 1;
        let (sender, receiver) = oneshot::channel();
        if join == Join::Any
            && let Some(readers) = self.flying.get_mut(&key)
        {
            readers.push(sender);
            return Some(receiver);
        }
        if let Some(readers) = self.waiting.get_mut(&key) {
            readers.push(sender);
        } else {
            self.order.push_back(key.clone());
            self.waiting.insert(key, vec![sender]);
        }
        Some(receiver)
    }

    /// Moves the keys that may fly now, first come first; a key that is under way waits for its flight to land, and one of another kind than the
    /// first for one of its own.
    fn board(&mut self, apart: &Apart<K>) -> Vec<K> {
        let mut keys = Vec::new();
        let mut kind = None;
        let mut blocked = VecDeque::new();
        while keys.len() < MAX_KEYS
            && let Some(key) = self.order.pop_front()
        {
            let of_another_kind = kind.is_some_and(|kind| kind != apart(&key));
            if of_another_kind || self.flying.contains_key(&key) {
                blocked.push_back(key);
            } else if let Some(readers) = self.waiting.remove(&key) {
                kind.get_or_insert_with(|| apart(&key));
                self.flying.insert(key.clone(), readers);
                keys.push(key);
            }
        }
        blocked.append(&mut self.order);
        self.order = blocked;
        keys
    }
}

impl<K, V> Inner<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + 'static,
{
    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A flight for the keys that wait, where one may leave; landed, it lets the next ones leave.
    fn board(this: &Arc<Self>) -> Option<Flight> {
        let mut state = this.lock();
        if state.flights >= this.max_flights {
            return None;
        }
        let keys = state.board(&*this.apart);
        if keys.is_empty() {
            return None;
        }
        state.flights += 1;
        drop(state);
        let inner = Arc::clone(this);
        Some(Flight(Some(Box::pin(async move {
            inner.fly(keys).await;
            Self::pump(&inner);
        }))))
    }

    /// Lets all leave that may, each as a task of its own: nobody who is awake waits for them.
    fn pump(this: &Arc<Self>) {
        while let Some(flight) = Self::board(this) {
            tokio::spawn(flight);
        }
    }

    async fn fly(&self, keys: Vec<K>) {
        let sent = Instant::now();
        let fetched = AssertUnwindSafe(async { (self.fetch)(keys.clone()).await })
            .catch_unwind()
            .await;
        let fetched = fetched.unwrap_or_else(|_| Err(LedgerError::Internal("a read panicked".to_owned())));
        let fetched = fetched.and_then(|values| {
            if values.len() == keys.len() {
                Ok(values)
            } else {
                Err(LedgerError::Internal(format!(
                    "{} values for {} keys",
                    values.len(),
                    keys.len()
                )))
            }
        });
        let mut state = self.lock();
        state.flights -= 1;
        let landed: Vec<_> = keys
            .iter()
            .map(|key| state.flying.remove(key).unwrap_or_default())
            .collect();
        state.waiters -= landed.iter().map(Vec::len).sum::<usize>();
        drop(state);
        for (index, readers) in landed.into_iter().enumerate() {
            for reader in readers {
                let outcome = match &fetched {
                    Ok(values) => Ok(Landed {
                        value: values[index].clone(),
                        sent,
                    }),
                    Err(error) => Err(error.clone().into()),
                };
                // Who does not wait any longer does not need the answer.
                let _ = reader.send(outcome);
            }
        }
    }
}

/// A statement under way, flown by the reader who sent it: a task of its own would wake another thread for each. It must land for all its readers, so
/// where its pilot goes away a task takes over.
struct Flight(Option<BoxFuture<'static, ()>>);

impl Future for Flight {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(flight) = &mut self.0 else {
            return Poll::Ready(());
        };
        let landed = flight.as_mut().poll(context);
        if landed.is_ready() {
            self.0 = None;
        }
        landed
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if let Some(flight) = self.0.take() {
            tokio::spawn(flight);
        }
    }
}

fn gone() -> ServiceError {
    LedgerError::Internal("a read ended without an answer".to_owned()).into()
}
