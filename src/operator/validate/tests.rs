//! What is refused, with which words, and what is made of what is not.

use super::*;
use crate::operator::fixtures;

#[test]
fn what_is_proven_holds_no_password() {
    let (object, observed) = fixtures::minimal();
    let proven = validate(&object, &observed).unwrap();
    assert_eq!(proven.postgres.host, "pg.growth.svc");
    assert!(!format!("{proven:?} {observed:?}").contains("hunter2"));
}

#[test]
fn what_is_wrong_is_told_with_its_reason_and_where() {
    type Spoil = fn(&mut SegmentCounter, &mut Observed);
    let table: [(Spoil, ConditionType, Reason, &str); 8] = [
        (
            |_, seen| seen.postgres_secret = None,
            ConditionType::PostgresReady,
            Reason::SecretNotFound,
            "ads-pg-app",
        ),
        (
            |_, seen| drop(seen.postgres_secret.as_mut().unwrap().remove("password")),
            ConditionType::PostgresReady,
            Reason::SecretKeyMissing,
            "password",
        ),
        (
            |object, _| object.spec.maintenance.archive.schedule = "99 99 * * *".to_owned(),
            ConditionType::Stalled,
            Reason::InvalidSpec,
            "spec.maintenance.archive.schedule",
        ),
        (
            |object, _| object.spec.redis.managed = None,
            ConditionType::Stalled,
            Reason::InvalidSpec,
            "exactly one member",
        ),
        (
            |object, _| object.spec.postgres.external = None,
            ConditionType::Stalled,
            Reason::InvalidSpec,
            "exactly one member",
        ),
        (
            |object, seen| {
                object.spec.api.tokens_secret_ref = Some(crate::crd::SecretRef {
                    name: "mistyped".to_owned(),
                });
                seen.tokens_secret = None;
            },
            ConditionType::Stalled,
            Reason::SecretNotFound,
            "mistyped",
        ),
        (
            |object, seen| {
                object.spec.api.tokens_secret_ref = Some(crate::crd::SecretRef {
                    name: "keyless".to_owned(),
                });
                seen.tokens_secret = Some(SecretData::new());
            },
            ConditionType::Stalled,
            Reason::SecretKeyMissing,
            "tokens.yaml",
        ),
        (
            |_, seen| seen.redis_secret = Some(SecretData::new()),
            ConditionType::Stalled,
            Reason::SecretKeyMissing,
            "ads-redis",
        ),
    ];
    for (spoil, condition, reason, says) in table {
        let (mut object, mut observed) = fixtures::minimal();
        spoil(&mut object, &mut observed);
        let invalid = validate(&object, &observed).unwrap_err();
        assert_eq!((invalid.condition, invalid.reason), (condition, reason), "{invalid}");
        assert!(
            invalid.message.contains(says) && !invalid.message.contains("hunter2"),
            "{invalid}"
        );
    }
}

#[test]
fn every_default_schedule_and_every_alias_of_the_schema_is_one() {
    for text in [
        "15 2 * * *",
        "*/5 * * * *",
        "@hourly",
        "@daily",
        "@weekly",
        "@monthly",
        "@yearly",
        "@annually",
        "@midnight",
    ] {
        assert!(schedule("x", text).is_ok(), "{text}");
    }
}

#[test]
fn an_image_comes_from_where_the_object_says() {
    let image = |registry: &str, version: Option<&str>, default: &str| {
        let (mut object, mut observed) = fixtures::minimal();
        object.spec.images.registry = registry.to_owned();
        object.spec.version = version.map(str::to_owned);
        observed.default_image = default.to_owned();
        validate(&object, &observed).unwrap().image
    };
    assert_eq!(image("", None, "a.io/x/counter:1"), "a.io/x/counter:1");
    assert_eq!(image("", Some("2"), "a.io:5000/x/counter:1"), "a.io:5000/x/counter:2");
    assert_eq!(
        image("b.io:5000/m", None, "localhost/counter:1"),
        "b.io:5000/m/counter:1"
    );
    assert_eq!(image("b.io", None, "team/counter"), "b.io/team/counter:0.1.0");
}

#[test]
fn memory_is_read_as_the_schema_lets_it_be_written() {
    let table = [
        ("256Mi", Some(256 << 20)),
        ("1G", Some(1_000_000_000)),
        ("33554432", Some(1 << 25)),
        ("lots", None),
    ];
    for (text, wanted) in table {
        assert_eq!(bytes(text), wanted, "{text}");
    }
}
