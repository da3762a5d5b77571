//! One node: one multiplexed connection, made when it is first needed and again after it broke, behind a circuit.
//!
//! A node that is away costs a caller microseconds: only the very first connection is waited for, every later one is made aside by a probe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, ServerErrorKind, Value,
};

use super::super::{CacheError, NodeHealth};
use super::circuit::{Circuit, Gate};
use super::scripts::Call;
use super::{PasswordSource, RedisConfig, rendezvous};

/// Commands that may wait to be written. Beyond it callers wait, within their time-out.
const PIPELINE: usize = 1_024;

/// Clones are the same node: one connection, one circuit.
#[derive(Clone)]
pub(super) struct Node {
    shared: Arc<Shared>,
    hash: u64,
}

/// Why a node did not do what it was asked.
pub(super) enum Refusal {
    /// It is one of a Redis Cluster, and the key is another's.
    Elsewhere(Redirect),
    /// Anything else.
    Failed(CacheError),
}

/// Where a node of a Redis Cluster says that a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redirect {
    pub(super) host: String,
    pub(super) port: u16,
    /// For this one command, since the slot is on its way there (`ASK`); else for good (`MOVED`).
    pub(super) asking: bool,
}

/// Host and port; `None` of what is not supported: a socket of the machine, and TLS that looks at no certificate.
pub(super) fn address(of: &ConnectionAddr) -> Option<(&str, u16)> {
    match of {
        ConnectionAddr::Tcp(host, port)
        | ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            ..
        } => Some((host, *port)),
        _ => None,
    }
}

fn is_tls(address: &ConnectionAddr) -> bool {
    matches!(address, ConnectionAddr::TcpTls { .. })
}

struct Shared {
    /// Host, port and database: what it is called, and what its segments are chosen by.
    name: String,
    info: ConnectionInfo,
    password: Option<PasswordSource>,
    connect_timeout: Duration,
    response_timeout: Duration,
    circuit: Mutex<Circuit<Connection>>,
    /// Whether it refused a key as another's, although it was taken for independent.
    of_a_cluster: AtomicBool,
    /// Held while the first connection is made.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Connection {
    redis: MultiplexedConnection,
    /// Tells connections apart: what is late from an old one must not open the circuit of the new one.
    identity: Arc<()>,
}

impl Node {
    pub(super) fn new(info: ConnectionInfo, config: &RedisConfig) -> Self {
        let database = info.redis_settings().db();
        let name = match address(info.addr()) {
            Some((host, port)) => format!("{host}:{port}/{database}"),
            None => format!("{}/{database}", info.addr()),
        };
        Self {
            hash: rendezvous::hash(&name),
            shared: Arc::new(Shared {
                name,
                info,
                password: config.password.clone(),
                connect_timeout: config.connect_timeout,
                response_timeout: config.response_timeout,
                circuit: Mutex::new(Circuit::Unused),
                of_a_cluster: AtomicBool::new(false),
                connecting: tokio::sync::Mutex::new(()),
            }),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn is_of_a_cluster(&self) -> bool {
        self.shared.of_a_cluster.load(Ordering::Relaxed)
    }

    /// True for the first time.
    pub(super) fn note_of_a_cluster(&self) -> bool {
        !self.shared.of_a_cluster.swap(true, Ordering::Relaxed)
    }

    pub(super) fn host(&self) -> &str {
        address(self.shared.info.addr()).map_or("", |(host, _)| host)
    }

    /// The same server, reached in the same way.
    pub(super) fn is_as(&self, info: &ConnectionInfo) -> bool {
        let (mine, other) = (self.shared.info.redis_settings(), info.redis_settings());
        let alike = (mine.username(), mine.password()) == (other.username(), other.password());
        alike && is_tls(self.shared.info.addr()) == is_tls(info.addr())
    }

    /// Runs one script; `asking`: on a slot that is still on its way to this node.
    pub(super) async fn run(&self, call: &Call, asking: bool) -> Result<Value, Refusal> {
        let connection = self.shared.enter().await.map_err(Refusal::Failed)?;
        let mut redis = connection.redis.clone();
        let answer = match ask(&mut redis, &call.by_hash, asking).await {
            Err(error) if is_unknown_script(&error) => ask(&mut redis, &call.by_text, asking).await,
            answer => answer,
        };
        answer.map_err(|error| self.shared.refusal(&connection, &error))
    }

    /// Runs many scripts in one pipeline, each atomic on its own; answers in their order.
    pub(super) async fn run_all(&self, calls: &[Call]) -> Vec<Result<(), Refusal>> {
        let all_failed = |error: &CacheError| calls.iter().map(|_| Err(Refusal::Failed(error.clone()))).collect();
        let connection = match self.shared.enter().await {
            Ok(connection) => connection,
            Err(error) => return all_failed(&error),
        };
        let mut redis = connection.redis.clone();
        let mut pipeline = redis::Pipeline::with_capacity(calls.len());
        for call in calls {
            pipeline.add_command(call.by_hash.clone());
        }
        let answers = match redis.send_packed_commands(&pipeline, 0, calls.len()).await {
            Ok(answers) => answers,
            Err(error) => return all_failed(&self.shared.failed(&connection, &error)),
        };
        let mut results = Vec::with_capacity(calls.len());
        for (call, answer) in calls.iter().zip(answers) {
            let answer = match answer.extract_error() {
                // A server that was restarted knows none of them: each goes again with its text.
                Err(error) if is_unknown_script(&error) => ask(&mut redis, &call.by_text, false).await,
                answer => answer,
            };
            results.push(
                answer
                    .map(drop)
                    .map_err(|error| self.shared.refusal(&connection, &error)),
            );
        }
        results
    }

    /// One command that is no script.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, CacheError> {
        let connection = self.shared.enter().await?;
        let answer = ask(&mut connection.redis.clone(), command, false).await;
        answer.map_err(|error| self.shared.failed(&connection, &error))
    }

    pub(super) async fn health(&self) -> NodeHealth {
        let error = self.ask(&redis::cmd("PING")).await.err();
        NodeHealth {
            node: self.shared.name.clone(),
            error,
        }
    }
}

impl Shared {
    fn circuit(&self) -> MutexGuard<'_, Circuit<Connection>> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(self: &Arc<Self>) -> Result<Connection, CacheError> {
        let gate = self.circuit().enter();
        match gate {
            Gate::Use(connection) => Ok(connection),
            Gate::Refuse { error, probe } => {
                if probe {
                    tokio::spawn(Arc::clone(self).probe());
                }
                Err(error)
            }
            Gate::Connect => self.connect_first().await,
        }
    }

    async fn connect_first(self: &Arc<Self>) -> Result<Connection, CacheError> {
        let _connecting = self.connecting.lock().await;
        let gate = self.circuit().enter();
        match gate {
            Gate::Connect => {
                let attempt = self.connect().await;
                self.circuit().connected(attempt.clone());
                attempt
            }
            Gate::Use(connection) => Ok(connection),
            // Where a probe is due already it is left to the next caller.
            Gate::Refuse { error, probe } => {
                if probe {
                    tokio::spawn(Arc::clone(self).probe());
                }
                Err(error)
            }
        }
    }

    async fn probe(self: Arc<Self>) {
        let attempt = self.connect().await;
        match &attempt {
            Ok(_) => tracing::info!(node = %self.name, "a node of the cache is back"),
            Err(error) => tracing::debug!(node = %self.name, %error, "a node of the cache is still away"),
        }
        self.circuit().connected(attempt);
    }

    async fn connect(&self) -> Result<Connection, CacheError> {
        let mut settings = self.info.redis_settings().clone();
        if let Some(password) = self.password.as_ref().and_then(|source| source()) {
            settings = settings.set_password(password);
        }
        let client = Client::open(self.info.clone().set_redis_settings(settings));
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE);
        let connecting = async move { client?.get_multiplexed_async_connection_with_config(&config).await };
        // The look-up of the host's name is inside this limit too.
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(redis)) => Ok(Connection {
                redis,
                identity: Arc::new(()),
            }),
            Ok(Err(error)) => Err(self.describe(&error)),
            Err(_) => Err(CacheError::Timeout(format!(
                "{} was not connected in {:?}",
                self.name, self.connect_timeout
            ))),
        }
    }

    /// What a failed command means: another node's key, or a failure.
    fn refusal(self: &Arc<Self>, connection: &Connection, error: &RedisError) -> Refusal {
        match redirect(error) {
            Some(mut redirect) => {
                // A node that does not know its own address means itself.
                if redirect.host.is_empty()
                    && let Some((host, _)) = address(self.info.addr())
                {
                    host.clone_into(&mut redirect.host);
                }
                Refusal::Elsewhere(redirect)
            }
            None => Refusal::Failed(self.failed(connection, error)),
        }
    }

    /// Describes a failed command, and opens the circuit if its connection is of no more use.
    fn failed(self: &Arc<Self>, connection: &Connection, failure: &RedisError) -> CacheError {
        let error = self.describe(failure);
        let server_answered = matches!(failure.kind(), ErrorKind::Server(_) | ErrorKind::Extension);
        if server_answered && !matches!(error, CacheError::AuthenticationFailed(_)) {
            return error;
        }
        let mut circuit = self.circuit();
        if let Circuit::Closed(current) = &*circuit
            && Arc::ptr_eq(&current.identity, &connection.identity)
        {
            tracing::warn!(node = %self.name, %error, "a node of the cache went away; its segments are read from the ledger");
            circuit.broke(error.clone());
        }
        error
    }

    /// The server's own words are left out where they could quote what was sent.
    fn describe(&self, error: &RedisError) -> CacheError {
        let name = &self.name;
        let code = error.code().unwrap_or_default();
        if error.kind() == ErrorKind::AuthenticationFailed || matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM") {
            return CacheError::AuthenticationFailed(format!(
                "{name}: {}",
                if code.is_empty() { "login failed" } else { code }
            ));
        }
        if error.is_timeout() {
            return CacheError::Timeout(format!("{name} did not answer in {:?}", self.response_timeout));
        }
        match error.kind() {
            ErrorKind::Io => CacheError::Unreachable(format!("{name}: {error}")),
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly,
            ) => CacheError::Unreachable(format!("{name}: {code}")),
            _ => CacheError::Internal(format!("{name}: {}", error.category())),
        }
    }
}

/// One command; what the server refuses is an error too.
async fn ask(redis: &mut MultiplexedConnection, command: &Cmd, asking: bool) -> Result<Value, RedisError> {
    if !asking {
        return redis.send_packed_command(command).await.and_then(Value::extract_error);
    }
    // Both in one pipeline: the permission holds for the very next command of the connection, which others use too.
    let mut pipeline = redis::Pipeline::with_capacity(2);
    pipeline.cmd("ASKING").add_command(command.clone());
    let mut answers = redis.send_packed_commands(&pipeline, 1, 1).await?;
    answers.pop().unwrap_or(Value::Nil).extract_error()
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

fn redirect(error: &RedisError) -> Option<Redirect> {
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    Some(Redirect {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().ok()?,
        asking: error.kind() == ErrorKind::Server(ServerErrorKind::Ask),
    })
}
