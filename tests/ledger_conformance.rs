//! One suite for every ledger: the rules of counting, held against a model that is a plain map of (segment, user) to what stands.
//!
//! Each test runs over a SQLite file, over a real PostgreSQL (`support::postgres`) and over one with four lanes, under the same name; and over two lanes
//! that Citus distributes, where `CITUS_URL` leads to a cluster (`support::citus`).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "ledger/clock.rs"]
mod clock;
#[path = "ledger/concurrent.rs"]
mod concurrent;
#[path = "ledger/counters.rs"]
mod counters;
#[path = "ledger/distributed.rs"]
mod distributed;
#[path = "ledger/jobs.rs"]
mod jobs;
#[path = "ledger/lanes.rs"]
mod lanes_of_postgres;
#[path = "ledger/model.rs"]
mod model;
#[path = "ledger/moves.rs"]
mod moves;
#[path = "ledger/pooled.rs"]
mod pooled;
#[path = "ledger/random.rs"]
mod random;
#[path = "ledger/removal.rs"]
mod removal;
#[path = "ledger/rules.rs"]
mod rules;
#[path = "ledger/schedules/mod.rs"]
mod schedules;
mod support;
#[path = "ledger/world.rs"]
mod world;

macro_rules! for_every_ledger {
    ($($module:ident :: $test:ident,)*) => {
        mod sqlite {
            $(#[test] fn $test() { crate::world::run(crate::world::Kind::Sqlite, crate::$module::$test); })*
        }
        mod postgres {
            $(#[test] fn $test() { crate::world::run(crate::world::Kind::Postgres, crate::$module::$test); })*
        }
        mod lanes {
            $(#[test] fn $test() { crate::world::run(crate::world::Kind::Lanes, crate::$module::$test); })*
        }
        mod citus {
            $(#[test] fn $test() { crate::world::run(crate::world::Kind::Citus, crate::$module::$test); })*
        }
    };
}

for_every_ledger! {
    rules::rule_1_a_membership_ends_at_its_window_rounded_up_to_the_resolution,
    rules::rule_2_pairs_may_be_retried_replayed_and_reordered,
    rules::rule_3_a_user_is_in_a_segment_until_the_very_instant_it_ends_and_no_job_is_needed,
    rules::rule_3_a_changed_window_holds_for_pairs_from_then_on,
    rules::rule_8_the_ledgers_clock_is_the_databases_and_may_step_back,
    clock::rule_8_the_clock_may_step_while_calls_are_under_way,
    rules::rule_9_outcomes_are_exact,
    rules::rule_12_a_segment_exists_from_its_first_valid_pair_or_its_put,
    rules::rule_12_pairs_create_no_more_segments_than_the_limit,
    removal::rule_10_a_removal_beats_what_was_observed_before_and_nothing_after,
    removal::rule_10_a_removal_is_remembered_where_nobody_was_and_after_the_archive,
    removal::rule_10_a_removal_that_the_snapshot_did_not_see_still_beats_a_late_pair,
    removal::rule_10_a_pair_after_an_acknowledged_removal_always_counts,
    removal::rule_10_every_change_of_that_kind_raises_the_epoch,
    removal::rule_11_an_erased_user_is_nowhere_and_late_pairs_stay_out,
    removal::rule_11_what_an_erasure_keeps_out_stays_out_after_another_on_a_clock_that_stepped_back,
    removal::rule_11_what_a_removal_keeps_out_stays_out_after_an_erasure_on_a_clock_that_stepped_back,
    removal::rule_11_an_erasure_waits_for_writers_and_leaves_nothing_behind_among_them,
    removal::rule_11_a_removal_ends_what_an_erasure_that_broke_off_left,
    counters::a_recount_of_a_deleted_segment_finds_nothing,
    removal::a_deleted_segment_is_gone_at_once_and_its_rows_with_the_next_sweep,
    rules::pairs_from_the_far_past_are_expired_and_spoil_no_batch,
    rules::segments_are_listed_by_name_in_pages,
    rules::a_batch_of_more_than_was_agreed_is_refused_as_a_whole,
    concurrent::rule_2_many_writers_create_each_membership_once_and_leave_no_drift,
    concurrent::rule_4_a_count_holds_every_pair_acknowledged_before_it,
    concurrent::rule_6_counters_move_with_their_memberships_at_every_instant,
    concurrent::a_reader_at_the_edge_of_a_bucket_never_sees_a_member_twice,
    concurrent::rule_12_the_limit_on_segments_holds_among_many_writers,
    concurrent::archive_and_sweep_disturb_no_writer,
    jobs::the_archive_moves_exactly_what_ended_before_now_minus_settle,
    jobs::an_archive_of_a_table_full_of_what_ended_moves_nothing_else,
    counters::a_recount_mends_what_differs_and_says_so,
    counters::a_count_is_the_same_however_late_the_sweep_comes,
    counters::where_nobody_sweeps_a_count_moves_its_total_on,
    counters::a_clock_that_was_ahead_for_a_moment_spoils_no_count,
    counters::processes_with_other_settle_times_count_the_same,
    counters::a_total_of_an_instant_that_is_to_come_is_mended,
    counters::a_recount_of_many_finds_the_one_whose_counters_differ_whatever_they_add_up_to,
    counters::a_ledger_of_the_version_before_counts_the_same_once_it_is_migrated,
    jobs::one_exclusive_job_runs_at_a_time_and_a_dead_one_is_forgotten,
    jobs::a_sweep_forgets_old_runs_but_never_what_the_state_is_told_from,
    jobs::migrations_may_run_again_and_at_once,
    jobs::a_ledger_without_its_schema_says_so,
}

#[test]
fn a_ledger_in_memory_takes_readers_and_writers_at_once() {
    use segment_counter::ledger::{Location, Settings, open};
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ledger = open(&Location::Memory, Settings::default()).unwrap();
        ledger.migrate().await.unwrap();
        ledger.check().await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..4 {
            let ledger = ledger.clone();
            tasks.spawn(async move {
                for n in 1..=20 {
                    let pairs = [world::pair("s", &format!("{writer}-{n}"))];
                    ledger.record(&pairs).await.unwrap();
                    assert!(world::count(&ledger, "s").await >= n);
                }
            });
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        assert_eq!((world::count(&ledger, "s").await, world::drift(&ledger).await), (80, 0));
    });
}
