//! The archive: how fast it moves what has ended beside a bare DELETE into INSERT of the same rows, and what it does to counts meanwhile.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use segment_counter::ledger::{PostgresOptions, Settings, recording_for_bench};
use tokio::process::Command;

use crate::harness::busy::Compute;
use crate::harness::ledger::{Leaving, ask, fill};
use crate::harness::open::{Offer, Request};
use crate::harness::program::{self, Program};
use crate::harness::table::thousands;
use crate::harness::{Bound, Plan, Ratio, Row, median, pgbench, pin, postgres};
use crate::support::postgres::Server;

const SEGMENTS: u32 = 100;
/// What the archive moves at once where nothing else is said.
const BATCH: i64 = 10_000;
/// Counts that come in a second, whatever becomes of them: far below what there is room for, so that what shows is waiting and not the want of a
/// processor.
const COUNTS_PER_SECOND: f64 = 500.0;

/// A copy of a database that nobody is connected to.
async fn copy(server: &Server, from: &str, name: &str) -> String {
    let (_, from) = from.rsplit_once('/').expect("a URL with a database");
    server
        .execute(&format!("CREATE DATABASE {name} TEMPLATE {from} STRATEGY file_copy"))
        .await;
    server.url_of(name)
}

pub async fn speed(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    let filled = server.database().await;
    program::run("migrate", &filled);
    fill(&filled, "ended", SEGMENTS, plan.rows / SEGMENTS, Leaving::LongAgo).await;
    let (mut ours, mut theirs) = (vec![], vec![]);
    for round in 0..=plan.rounds {
        let database = copy(&server, &filled, "ours").await;
        let begun = Instant::now();
        let said = program::run("archive", &database);
        let archived = f64::from(plan.rows) / begun.elapsed().as_secs_f64();
        assert!(said.contains(&format!("archived {} memberships", plan.rows)), "{said}");
        server.execute("DROP DATABASE ours").await;

        let database = copy(&server, &filled, "theirs").await;
        let moved = f64::from(plan.rows) / by_hand(&database, plan.rows).await;
        server.execute("DROP DATABASE theirs").await;
        eprintln!("  rows/s: archive {archived:.0}, by hand {moved:.0}");
        if round > 0 {
            ours.push(archived);
            theirs.push(moved);
        }
    }
    let say = |rates: &[f64]| format!("{} rows/s", thousands(median(rates.iter().copied())));
    vec![
        Row::new(
            &format!("archive of {} memberships", thousands(f64::from(plan.rows))),
            say(&ours),
        )
        .beside(
            "DELETE … RETURNING into INSERT, batches as large, by pgbench",
            say(&theirs),
        )
        .ratio(Ratio::of(&ours, &theirs), Bound::AtLeast(0.8)),
    ]
}

/// Every block's rows deleted and kept, so many blocks at once that a batch is as large as the archive's; gives the seconds.
async fn by_hand(database: &str, rows: u32) -> f64 {
    let (blocks,): (i64,) = ask(
        database,
        "SELECT pg_relation_size('segment_counter_lane_0.membership') / current_setting('block_size')::bigint",
    )
    .await;
    let step = (BATCH * blocks / i64::from(rows)).max(1);
    let mut text = String::new();
    let mut from = 0;
    while from < blocks {
        let to = from + step;
        writeln!(
            text,
            "WITH gone AS (DELETE FROM segment_counter_lane_0.membership WHERE ctid >= '({from},0)' AND ctid < '({to},0)'
             RETURNING segment_id, user_id, expires_at)
             INSERT INTO segment_counter_lane_0.membership_history (segment_id, user_id, expires_at, archived_at)
             SELECT segment_id, user_id, expires_at, clock_timestamp() FROM gone;"
        )
        .unwrap();
        from = to;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("archive.sql");
    std::fs::write(&script, text).unwrap();
    let options = PostgresOptions::new(database.parse().unwrap(), "segment_counter", 1).unwrap();
    let (_, session) = recording_for_bench(&options, &Settings::default(), false);
    let seconds = pgbench::seconds(database, &session, 1, &script);
    let (left,): (i64,) = ask(database, "SELECT count(*) FROM segment_counter_lane_0.membership").await;
    assert_eq!(left, 0, "all of it was moved");
    seconds
}

/// Counts at the ledger while an archive runs as fast as it can, and while none does. Autovacuum comes to what an archive deletes once a minute, so
/// to some rounds and not to others; it is kept away from all of them, and then let in to show what it does.
pub async fn beside_counts(plan: &Plan) -> Vec<Row> {
    let server = postgres();
    server.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'").await;
    autovacuum(&server, false).await;
    let filled = server.database().await;
    program::run("migrate", &filled);
    fill(&filled, "counted", 1, 20_000, Leaving::Already).await;
    // Enough to move that the archive outlasts what is measured.
    let rows = (plan.seconds + 2) * 2 * 500_000;
    fill(&filled, "ended", SEGMENTS, rows / SEGMENTS, Leaving::LongAgo).await;
    let mut rows = Vec::new();
    for apart in [false, true] {
        if apart && std::thread::available_parallelism().map_or(1, usize::from) < 2 {
            eprintln!("  one processor: the archive cannot have one of its own");
            continue;
        }
        let mut rounds = Vec::with_capacity(plan.rounds);
        for round in 0..=plan.rounds {
            let measured = once(plan, &server, &filled, apart).await;
            if round > 0 {
                rounds.push(measured);
            }
        }
        let each = |what: fn(&Beside) -> f64| rounds.iter().map(what).collect::<Vec<f64>>();
        let archive = each(|p99| p99.archive);
        let say = |micros: &[f64]| format!("{:.2} ms", median(micros.iter().copied()) / 1e3);
        let what = if apart {
            ", each of the two on a processor of its own"
        } else {
            ""
        };
        let work = format!("a count at the ledger, {COUNTS_PER_SECOND} /s, beside an archive: p99{what}");
        let row = |beside: &str, by: &[f64]| {
            Row::new(&work, say(&archive))
                .beside(beside, say(by))
                .ratio(Ratio::of(&archive, by), Bound::AtMost(1.3))
        };
        rows.push(row("the same, no archive", &each(|p99| p99.alone)));
        for (compute, by) in [
            (Compute::STEADILY, each(|p99| p99.steadily)),
            (Compute::IN_TURNS, each(|p99| p99.in_turns)),
        ] {
            let beside = format!("the same, beside a process that {compute}, in the archive's place");
            rows.push(row(&beside, &by));
        }
        let vacuumed = rounds.iter().filter_map(|p99| Some((p99.vacuumed?, p99.archive)));
        let (vacuumed, without): (Vec<f64>, Vec<f64>) = vacuumed.unzip();
        if !vacuumed.is_empty() {
            let work = format!("{work}, and beside autovacuum, which comes each second");
            rows.push(
                Row::new(&work, say(&vacuumed))
                    .beside("the same, no autovacuum, as in the rows above", say(&without))
                    .unbounded_ratio(Ratio::of(&vacuumed, &without)),
            );
        }
    }
    rows
}

/// The p99 in microseconds of counts that are alone, beside a process that computes steadily or in turns, beside an archive, and beside that and
/// autovacuum.
struct Beside {
    alone: f64,
    steadily: f64,
    in_turns: f64,
    archive: f64,
    /// Not where the archive has a processor of its own, since autovacuum's processes come and go, nor where none came.
    vacuumed: Option<f64>,
}

/// One after another; `apart`: what they are beside runs on the second processor, all else on the first.
async fn once(plan: &Plan, server: &Server, filled: &str, apart: bool) -> Beside {
    let database = copy(server, filled, "counted").await;
    let service = Program::service(&database, None);
    if apart {
        let mut all = pin::of_postgres(&database).await;
        all.extend([std::process::id(), service.id()]);
        pin::pin("0", &all);
    }
    let offer = Offer {
        per_second: COUNTS_PER_SECOND,
        seconds: f64::from(plan.seconds),
        connections: 64,
    };
    let request = Request::get("/v1/segments/counted-1/count?max_staleness_ms=0");
    let p99 = async || {
        let answers = offer.make_by_one_thread(&service.url, &request).await;
        assert_eq!(answers.failed, 0, "a count was answered otherwise, or not at all");
        if !answers.all_accepted() {
            let (refused, unsent) = (answers.refused.count(), answers.unsent);
            eprintln!(
                "  something else keeps this machine busy: {refused} counts were refused and {unsent} found no connection, so this p99 is too low"
            );
        }
        answers.accepted.at(0.99)
    };
    p99().await;
    let alone = p99().await;

    let beside = async |compute: Compute| {
        let mut busy = compute.start();
        if apart {
            pin::pin("1", &[busy.id().unwrap()]);
        }
        // It measures first how fast it is.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let measured = p99().await;
        busy.kill().await.unwrap();
        measured
    };
    let steadily = beside(Compute::STEADILY).await;
    let in_turns = beside(Compute::IN_TURNS).await;

    let before = pin::of_postgres(&database).await;
    let mut moves = Command::from(program::command("archive", &database))
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // Until it has all the sessions that it will have.
    tokio::time::sleep(Duration::from_secs(1)).await;
    if apart {
        let mut its: Vec<u32> = pin::of_postgres(&database).await;
        its.retain(|pid| !before.contains(pid));
        its.extend(moves.id());
        pin::pin("1", &its);
    }
    let archive = p99().await;
    let vacuumed = if apart {
        None
    } else {
        autovacuum(server, true).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let vacuumed = p99().await;
        let (came,): (bool,) = ask(
            &database,
            "SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum)
                 OR (SELECT sum(autovacuum_count) FROM pg_stat_user_tables WHERE relname = 'membership') > 0",
        )
        .await;
        autovacuum(server, false).await;
        if !came {
            eprintln!("  autovacuum had nothing to do, so nothing is said of it");
        }
        came.then_some(vacuumed)
    };
    let outlasted = moves.try_wait().unwrap().is_none();
    let _ = moves.kill().await;
    if apart {
        let mut all = pin::of_postgres(&database).await;
        all.push(std::process::id());
        pin::pin("0-1", &all);
    }
    eprintln!(
        "  p99 {alone:.0} µs alone, {steadily:.0} and {in_turns:.0} µs beside a process that computes, {archive:.0} µs beside an archive, {vacuumed:.0?} µs and autovacuum (apart: {apart})"
    );
    assert!(
        outlasted,
        "the archive ended before the counts did: more rows are needed"
    );
    drop(service);
    server.execute("DROP DATABASE counted WITH (FORCE)").await;
    Beside {
        alone,
        steadily,
        in_turns,
        archive,
        vacuumed,
    }
}

/// Lets autovacuum in, or keeps it away.
async fn autovacuum(server: &Server, on: bool) {
    server.execute(&format!("ALTER SYSTEM SET autovacuum = {on}")).await;
    server.execute("SELECT pg_reload_conf()").await;
}
