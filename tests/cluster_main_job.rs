//! The main job, end to end: charts installed as a platform team does, objects applied, real streams counted, faults told and healed.
//!
//! Needs kubectl, helm and a cluster whose node is this host or whose Service addresses this host reaches (`make cluster-up`), with the
//! images of our programs, of Postgres and of Valkey that `TEST_IMAGE`, `TEST_POSTGRES_IMAGE` and `TEST_REDIS_IMAGE` name (default:
//! localhost/…:test, as `make cluster-images` loads them), and AUDIT_LOG. Where one is missing, the tests fail.
//!
//! The scenarios run side by side, each in a namespace of its own; what they all stand on is made before the first and taken away after
//! the last, so this is a test harness of its own. `KEEP=1` leaves it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]
#![allow(clippy::disallowed_methods, reason = "a client has no other clock than its own")]

#[path = "main_job/mod.rs"]
mod main_job;

use std::{env, future::Future, process::ExitCode};

use libtest_mimic::{Arguments, Trial};
use main_job::{audit::AuditLog, changes, faults, figures, idle, rights, stream, world};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle();
    let trials = vec![
        scenario(
            handle,
            "a_real_stream_is_counted_exactly_whatever_is_lost_on_the_way",
            stream::a_real_stream_is_counted_exactly_whatever_is_lost_on_the_way,
        ),
        scenario(
            handle,
            "an_idle_object_costs_no_request_that_changes_anything",
            idle::an_idle_object_costs_no_request_that_changes_anything,
        ),
        scenario(
            handle,
            "what_goes_wrong_has_its_reason_and_heals_by_itself",
            faults::what_goes_wrong_has_its_reason_and_heals_by_itself,
        ),
        scenario(
            handle,
            "a_changed_spec_is_brought_about_and_what_is_not_asked_for_any_more_goes",
            changes::a_changed_spec_is_brought_about_and_what_is_not_asked_for_any_more_goes,
        ),
    ];
    if arguments.list {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    // They mostly wait, whatever the number of cores.
    arguments.test_threads.get_or_insert(trials.len());
    let from = AuditLog::open().end();
    world::set_up();
    let mut conclusion = libtest_mimic::run(&arguments, trials);
    // Only what did everything can show that nothing is left over.
    if arguments.filter.is_none() && !conclusion.has_failed() {
        let rights = Trial::test("the_operator_has_the_rights_that_it_uses_and_no_others", move || {
            rights::the_operator_has_the_rights_that_it_uses_and_no_others(from);
            Ok(())
        });
        conclusion = libtest_mimic::run(&arguments, vec![rights]);
    }
    if conclusion.has_failed() {
        world::print_logs();
    }
    figures::keep();
    if env::var_os("KEEP").is_none() {
        world::tear_down();
    }
    conclusion.exit_code()
}

fn scenario<F: Future<Output = ()> + Send>(
    runtime: &tokio::runtime::Handle,
    name: &str,
    body: impl FnOnce() -> F + Send + 'static,
) -> Trial {
    let runtime = runtime.clone();
    Trial::test(name, move || {
        runtime.block_on(body());
        Ok(())
    })
}
