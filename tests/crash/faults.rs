//! What breaks, for how long, and how it comes back.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng, seq::SliceRandom};

use crate::support::proxy::Proxy;
use crate::world::{REPLICAS, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillApi,
    CutApi,
    BlackHoleApi,
    KillPostgres,
    KillRedis,
    CutPostgres,
    BlackHolePostgres,
    CutRedis,
    BlackHoleRedis,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::KillApi,
        Self::CutApi,
        Self::BlackHoleApi,
        Self::KillPostgres,
        Self::KillRedis,
        Self::CutPostgres,
        Self::BlackHolePostgres,
        Self::CutRedis,
        Self::BlackHoleRedis,
    ];

    /// Faults for so many rounds: each as often as any other, in an order of the dice.
    pub fn schedule(rounds: usize, dice: &mut StdRng) -> Vec<Self> {
        let mut all = Vec::with_capacity(rounds);
        while all.len() < rounds {
            let mut each = Self::ALL;
            each.shuffle(dice);
            all.extend(each.into_iter().take(rounds - all.len()));
        }
        all
    }

    /// Whether the database is away, so that nothing can be recorded.
    pub fn stops_writes(self) -> bool {
        matches!(self, Self::KillPostgres | Self::CutPostgres | Self::BlackHolePostgres)
    }

    /// Whether clients of a replica are cut off or left without an answer.
    pub fn breaks_connections(self) -> bool {
        matches!(self, Self::KillApi | Self::CutApi | Self::BlackHoleApi)
    }

    /// Breaks it, waits, and mends it; blocks meanwhile.
    pub fn strike(self, world: &World, dice: &mut StdRng) {
        let away = Duration::from_millis(dice.random_range(500..3_000));
        let wait = || std::thread::sleep(away);
        match self {
            Self::KillApi => world.kill_replica(dice.random_range(0..REPLICAS), away),
            Self::CutApi => world.break_way(dice.random_range(0..REPLICAS), Proxy::cut, away),
            Self::BlackHoleApi => world.break_way(dice.random_range(0..REPLICAS), Proxy::black_hole, away),
            Self::KillPostgres => {
                world.postgres.stop();
                wait();
                world.postgres.crash_and_restart();
            }
            Self::KillRedis => {
                world.redis.lock().unwrap().kill();
                wait();
                world.redis.lock().unwrap().restart();
            }
            Self::CutPostgres => {
                world.to_postgres.cut();
                wait();
                world.to_postgres.heal();
            }
            Self::BlackHolePostgres => {
                world.to_postgres.black_hole();
                wait();
                world.to_postgres.heal();
            }
            Self::CutRedis => {
                world.to_redis.cut();
                wait();
                world.to_redis.heal();
            }
            Self::BlackHoleRedis => {
                world.to_redis.black_hole();
                wait();
                world.to_redis.heal();
            }
        }
    }
}
