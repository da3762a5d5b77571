//! What runs inside Redis: one script an operation, each on one key, a hash of short fields:
//!
//! | field | holds |
//! |---|---|
//! | `v`, `s` | the count, and the instant at which it was exact, in microseconds since the epoch by the database's clock |
//! | `a` | when the claim that it was stored under was placed, in microseconds by this server's clock |
//! | `f` | 0 once a writer has changed the segment |
//! | `t`, `c`, `d` | the standing claim's token, when it was placed and when it lapses, by this server's clock |
//!
//! Only the server's clock is read, and only compared with itself (but for a key whose slot moves to another node of a Redis Cluster); where it
//! was set back, a value counts as too old and a claim as lapsed.
//! Instants of the database are carried as text and never computed with.
//!
//! What may leave the hash without a field, and so the key away, is the last thing that a script does: while its slot is on the way to
//! another node of a Redis Cluster, a key that is not there (any more) is the other node's, and the rest of the script would be refused.

use std::time::Duration;

use jiff::Timestamp;
use redis::{Cmd, Value};

use crate::counting::SegmentId;

use super::super::{CacheError, Cached, Claim, Lookup};

/// KEYS: the segment's. ARGV: token, bound and claim in microseconds (a claim of 0 places none).
const READ: &str = r"
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local bound, claim = tonumber(ARGV[2]), tonumber(ARGV[3])
local h = redis.call('HMGET', KEYS[1], 'v', 's', 'a', 'f', 'c', 'd')
local age = -1
if h[1] then age = now - h[3] end
local known = h[1] and age >= 0
if claim > 0 and (not known or age > bound or h[4] == '0') then
  local placed, lapses = tonumber(h[5] or 0), tonumber(h[6] or 0)
  if lapses <= now or placed > now then
    redis.call('HSET', KEYS[1], 't', ARGV[1], 'c', string.format('%.0f', now), 'd', string.format('%.0f', now + claim))
    local ms = math.ceil(claim / 1000)
    if redis.call('PTTL', KEYS[1]) < ms then redis.call('PEXPIRE', KEYS[1], ms) end
    claim = -1
  end
end
local claimed = 0
if claim == -1 then claimed = 1 end
if not known then return {claimed} end
return {claimed, h[1], h[2], age, tonumber(h[4])}
";

/// KEYS: the segment's. ARGV: token, count, its instant, how long to keep it in milliseconds.
const STORE: &str = r"
local h = redis.call('HMGET', KEYS[1], 't', 'c', 'd')
if h[1] ~= ARGV[1] then return 0 end
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local stands = now < tonumber(h[3]) and now >= tonumber(h[2])
if stands then
  redis.call('HSET', KEYS[1], 'v', ARGV[2], 's', ARGV[3], 'a', h[2], 'f', '1')
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
redis.call('HDEL', KEYS[1], 't', 'c', 'd')
return stands and 1 or 0
";

/// KEYS: the segment's.
const INVALIDATE: &str = r"
if redis.call('HEXISTS', KEYS[1], 'v') == 1 then redis.call('HSET', KEYS[1], 'f', '0') end
redis.call('HDEL', KEYS[1], 't', 'c', 'd')
return 0
";

/// The shortest time that a value stays: longer than any usual bound on staleness.
const MIN_KEEP: Duration = Duration::from_secs(10);

/// The scripts, hashed once.
pub(super) struct Scripts {
    read: redis::Script,
    store: redis::Script,
    invalidate: redis::Script,
}

/// A script with its key and arguments, as commands.
pub(super) struct Call {
    /// By its hash: what is sent.
    pub(super) by_hash: Cmd,
    /// With its text: what is sent where the server does not know the hash.
    pub(super) by_text: Cmd,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            read: redis::Script::new(READ),
            store: redis::Script::new(STORE),
            invalidate: redis::Script::new(INVALIDATE),
        }
    }

    pub(super) fn read(&self, key: &str, token: u64, bound: Duration, claim: Duration) -> Call {
        call(
            &self.read,
            READ,
            key,
            &[token.to_string(), micros(bound), micros(claim)],
        )
    }

    pub(super) fn store(&self, key: &str, token: u64, members: i64, as_of: Timestamp, keep: Duration) -> Call {
        let keep = keep.max(MIN_KEEP).as_millis().to_string();
        call(
            &self.store,
            STORE,
            key,
            &[
                token.to_string(),
                members.to_string(),
                as_of.as_microsecond().to_string(),
                keep,
            ],
        )
    }

    pub(super) fn invalidate(&self, key: &str) -> Call {
        call(&self.invalidate, INVALIDATE, key, &[])
    }
}

fn call(script: &redis::Script, text: &str, key: &str, arguments: &[String]) -> Call {
    let command = |name: &str, script: &str| {
        let mut command = redis::cmd(name);
        command.arg(script).arg(1).arg(key).arg(arguments);
        command
    };
    Call {
        by_hash: command("EVALSHA", script.get_hash()),
        by_text: command("EVAL", text),
    }
}

/// Rounded down: a bound or a claim may only turn out shorter.
fn micros(duration: Duration) -> String {
    duration.as_micros().to_string()
}

/// What the read script answered.
pub(super) fn lookup(answer: &Value, segment: SegmentId, token: u64) -> Result<Lookup, CacheError> {
    let odd = || CacheError::Internal("a script of the cache answered in an unknown form".to_owned());
    let Value::Array(fields) = answer else {
        return Err(odd());
    };
    let numbers: Vec<i64> = fields.iter().map(number).collect::<Option<_>>().ok_or_else(odd)?;
    let (claimed, value) = match numbers[..] {
        [claimed] => (claimed, None),
        [claimed, members, as_of, age, fresh] => {
            let as_of = Timestamp::from_microsecond(as_of).map_err(|_| odd())?;
            let age = Duration::from_micros(age.try_into().map_err(|_| odd())?);
            (
                claimed,
                Some(Cached {
                    members,
                    as_of,
                    age,
                    fresh: fresh == 1,
                }),
            )
        }
        _ => return Err(odd()),
    };
    Ok(Lookup {
        value,
        claim: (claimed == 1).then_some(Claim { segment, token }),
    })
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}
