//! One node: one multiplexed connection, made when it is first needed and again after it broke, behind a circuit.
//!
//! A node that is away costs a caller microseconds: only the very first connection is waited for, every later one is made aside by a probe.

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

pub(super) struct Node {
    shared: Arc<Shared>,
    hash: u64,
}

struct Shared {
    /// Host, port and database: what it is called, and what its segments are chosen by.
    name: String,
    info: ConnectionInfo,
    password: Option<PasswordSource>,
    connect_timeout: Duration,
    response_timeout: Duration,
    circuit: Mutex<Circuit<Connection>>,
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
        let name = match info.addr() {
            ConnectionAddr::Tcp(host, port) => format!("{host}:{port}/{database}"),
            other => format!("{other}/{database}"),
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

    /// Runs one script.
    pub(super) async fn run(&self, call: &Call) -> Result<Value, CacheError> {
        let connection = self.shared.enter().await?;
        let mut redis = connection.redis.clone();
        let answer = match ask(&mut redis, &call.by_hash).await {
            Err(error) if is_unknown_script(&error) => ask(&mut redis, &call.by_text).await,
            answer => answer,
        };
        answer.map_err(|error| self.shared.failed(&connection, &error))
    }

    /// Runs many scripts in one pipeline, each atomic on its own; says the first failure.
    pub(super) async fn run_all(&self, calls: &[Call]) -> Result<(), CacheError> {
        let connection = self.shared.enter().await?;
        let mut redis = connection.redis.clone();
        let mut pipeline = redis::Pipeline::with_capacity(calls.len());
        for call in calls {
            pipeline.add_command(call.by_hash.clone());
        }
        let sent = redis.send_packed_commands(&pipeline, 0, calls.len()).await;
        let answers = sent.map_err(|error| self.shared.failed(&connection, &error))?;
        // A server that was restarted knows none of them: each goes again with its text.
        for (call, answer) in calls.iter().zip(answers) {
            match answer.extract_error() {
                Err(error) if is_unknown_script(&error) => {
                    let again = ask(&mut redis, &call.by_text).await;
                    again.map_err(|error| self.shared.failed(&connection, &error))?;
                }
                Err(error) => return Err(self.shared.failed(&connection, &error)),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    pub(super) async fn health(&self) -> NodeHealth {
        let error = match self.shared.enter().await {
            Ok(connection) => {
                let pong = ask(&mut connection.redis.clone(), &redis::cmd("PING")).await;
                pong.err().map(|error| self.shared.failed(&connection, &error))
            }
            Err(error) => Some(error),
        };
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
                ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown | ServerErrorKind::ReadOnly,
            ) => CacheError::Unreachable(format!("{name}: {code}")),
            _ => CacheError::Internal(format!("{name}: {}", error.category())),
        }
    }
}

/// One command; what the server refuses is an error too.
async fn ask(redis: &mut MultiplexedConnection, command: &Cmd) -> Result<Value, RedisError> {
    redis.send_packed_command(command).await.and_then(Value::extract_error)
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
