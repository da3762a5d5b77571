//! What a failover or a restored backup leaves behind: a server that is a standby now, and processes that remember what was lost.

use segment_counter::counting::{Removal, SegmentName, UserId};
use segment_counter::ledger::LedgerError;
use sqlx::{Connection, PgConnection};

use super::support::postgres::{Server, execute, server};
use super::{ledger, pair};

#[tokio::test(flavor = "multi_thread")]
async fn rule_4_a_primary_that_comes_back_as_a_standby_answers_nothing() {
    let server = Server::start(&[]);
    let url = server.database().await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("u")]).await.unwrap();
    let all = ledger.least_recently_recounted(1).await.unwrap();
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 1);
    server.come_back_as_standby();
    let is_read_only = |error: &LedgerError| matches!(error, LedgerError::ReadOnly(_));
    // The first ones find broken connections: the pool has at most four.
    let mut error = ledger.count(&all).await.unwrap_err();
    for _ in 0..4 {
        if matches!(error, LedgerError::Unreachable(_)) {
            error = ledger.count(&all).await.unwrap_err();
        }
    }
    assert!(is_read_only(&error), "{error:?}");
    let name = SegmentName::new("s").unwrap();
    let errors = [
        ledger.resolve(std::slice::from_ref(&name)).await.unwrap_err(),
        ledger.segment(&name).await.unwrap_err(),
        ledger.segments(None, 10).await.unwrap_err(),
        ledger.record(&[pair("other")]).await.unwrap_err(),
        ledger.check().await.unwrap_err(),
    ];
    for error in errors {
        assert!(is_read_only(&error), "{error:?}");
    }
}

/// As behind a pooler, whose own session to the server is another one from one statement to the next.
#[tokio::test(flavor = "multi_thread")]
async fn rule_4_a_session_that_has_become_a_standbys_answers_nothing() {
    let url = server().database().await;
    let is_standby = |standby: bool| {
        format!(
            "CREATE SCHEMA IF NOT EXISTS instead;
             CREATE OR REPLACE FUNCTION instead.pg_is_in_recovery() RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT {standby}'"
        )
    };
    for sql in is_standby(false).split(';') {
        execute(&url, sql).await;
    }
    let database = url.rsplit_once('/').unwrap().1;
    execute(
        &url,
        &format!("ALTER DATABASE {database} SET search_path = instead, pg_catalog"),
    )
    .await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("u")]).await.unwrap();
    let all = ledger.least_recently_recounted(1).await.unwrap();
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 1);
    for sql in is_standby(true).split(';') {
        execute(&url, sql).await;
    }
    let name = SegmentName::new("other").unwrap();
    for _ in 0..2 {
        let errors = [
            ledger.count(&all).await.unwrap_err(),
            ledger.resolve(std::slice::from_ref(&name)).await.unwrap_err(),
            ledger.segment(&name).await.unwrap_err(),
            ledger.segments(None, 10).await.unwrap_err(),
            ledger
                .segments(Some(&SegmentName::new("t").unwrap()), 10)
                .await
                .unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, LedgerError::ReadOnly(_)), "{error:?}");
        }
    }
    for sql in is_standby(false).split(';') {
        execute(&url, sql).await;
    }
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 1);
    assert_eq!(ledger.resolve(&[name]).await.unwrap(), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_a_failover_lost_lends_its_number_to_no_other() {
    let url = server().database().await;
    let before = ledger(&url, None);
    before.migrate().await.unwrap();
    before.record(&[pair("u")]).await.unwrap();
    // The server that takes over has heard nothing of it, nor that its number was given.
    for lost in [
        "DELETE FROM segment_counter.segment",
        "TRUNCATE segment_counter_lane_0.membership, segment_counter_lane_0.segment_expiry, segment_counter_lane_0.segment_total",
        "ALTER SEQUENCE segment_counter.segment_id_seq RESTART",
    ] {
        execute(&url, lost).await;
    }
    let after = ledger(&url, None);
    let mut of_another = pair("v");
    of_another.segment = SegmentName::new("other").unwrap();
    after.record(std::slice::from_ref(&of_another)).await.unwrap();
    // Whoever still knows the lost one sends pairs of it.
    before.record(&[pair("u1"), pair("u2")]).await.unwrap();
    let names = [SegmentName::new("s").unwrap(), of_another.segment];
    let page = after.segments(None, 10).await.unwrap();
    let counts: Vec<_> = page.segments.iter().map(|one| (&one.name, one.members)).collect();
    assert_eq!(counts, [(&names[1], 1), (&names[0], 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_a_failover_lost_does_not_come_round_again() {
    let url = server().database().await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    let removal = Removal {
        user: UserId::new("u").unwrap(),
        segment: SegmentName::new("s").unwrap(),
    };
    ledger.record(&[pair("u")]).await.unwrap();
    let mut session = PgConnection::connect(&url).await.unwrap();
    let stands: i64 = sqlx::query_scalar("SELECT epoch FROM segment_counter.removal_epoch")
        .fetch_one(&mut session)
        .await
        .unwrap();
    ledger.remove(std::slice::from_ref(&removal)).await.unwrap();
    let lost = ledger.record(&[pair("u")]).await.unwrap().epoch;
    execute(
        &url,
        &format!("UPDATE segment_counter.removal_epoch SET epoch = {stands}"),
    )
    .await;
    ledger.remove(&[removal]).await.unwrap();
    assert!(ledger.record(&[pair("u")]).await.unwrap().epoch > lost);
}
