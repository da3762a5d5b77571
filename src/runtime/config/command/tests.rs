use super::*;
use crate::runtime::config::Database;

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Started, StartError> {
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    start(
        std::iter::once(&"segment-counter").chain(arguments).map(OsString::from),
        environment,
    )
}

#[test]
fn the_command_line_is_well_formed() {
    command_line().debug_assert();
}

#[test]
fn without_any_configuration_the_ledger_is_an_embedded_file() {
    let started = run(&["serve"], &[]).unwrap();
    assert_eq!(started.command, Command::Serve);
    assert_eq!(
        started.config.database,
        Database::SqliteFile("segment-counter.db".into())
    );
    assert_eq!(started.config.rules, crate::counting::Rules::default());
    assert_eq!(started.config.redis, crate::runtime::config::RedisNodes::None);
}

#[test]
fn a_flag_wins_over_the_environment_and_the_environment_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(
        &file,
        "window_seconds: 100\nresolution_seconds: 10\nmax_staleness_ms: 5\n",
    )
    .unwrap();
    let environment = [
        ("SEGMENT_COUNTER_WINDOW_SECONDS", "200"),
        ("SEGMENT_COUNTER_RESOLUTION_SECONDS", "20"),
    ];
    let started = run(
        &["serve", "--config", file.to_str().unwrap(), "--window-seconds", "300"],
        &environment,
    )
    .unwrap();
    assert_eq!(started.config.rules.window().seconds(), 300);
    assert_eq!(started.config.rules.resolution().seconds(), 20);
    assert_eq!(started.config.max_staleness.as_millis(), 5);
}

#[test]
fn every_mistake_is_told_at_once_with_its_place_and_without_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    std::fs::write(&file, "log_format: xml\ncolour: red\n").unwrap();
    let environment = [
        ("SEGMENT_COUNTER_LISTEN", "localhost"),
        ("SEGMENT_COUNTER_DATABASE_URL", "mysql://u:hunter2@h/d"),
    ];
    let flags = [
        "serve",
        "--config",
        file.to_str().unwrap(),
        "--window-seconds=-1",
        "--max-staleness-ms",
        "60001",
        "--redis-url",
        "redis://a:1,redis://a:1",
        "--redis-url",
        "hunter2",
        "--database-schema",
        "Robert'); --",
    ];
    let error = run(&flags, &environment).unwrap_err().to_string();
    for part in [
        "7 mistakes",
        "colour in ",
        "log_format in ",
        "SEGMENT_COUNTER_LISTEN is \"localhost\": not ADDRESS:PORT",
        "SEGMENT_COUNTER_DATABASE_URL begins with neither",
        "--window-seconds is -1: a window is 1 to",
        "--max-staleness-ms is \"60001\": a whole number from 0 to 60000",
        "--redis-url number 2 is there twice",
        "--redis-url number 3 is not redis://",
        "--database-schema is",
    ] {
        assert!(error.contains(part) || part == "7 mistakes", "{part} is not in {error}");
    }
    assert!(error.contains("9 mistakes"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn what_happens_without_a_dependency_is_one_of_two_words() {
    let config = |flags: &[&str]| run(&[&["serve"], flags].concat(), &[]).unwrap().config;
    let usual = config(&[]);
    assert_eq!(usual.serve_stale, Some(std::time::Duration::from_secs(900)));
    assert!(!usual.cache_required);
    assert_eq!(config(&["--on-database-failure", "fail"]).serve_stale, None);
    assert_eq!(config(&["--serve-stale-seconds", "0"]).serve_stale, None);
    assert!(config(&["--on-cache-failure", "fail"]).cache_required);
    for (flag, words) in [
        ("--on-cache-failure", "serve_from_database and fail"),
        ("--on-database-failure", "serve_stale and fail"),
    ] {
        let error = run(&["serve", flag, "Fail"], &[]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{flag} is \"Fail\": one of {words}")),
            "{error}"
        );
    }
}

#[test]
fn a_move_names_a_segment_and_a_lane_and_is_refused_at_once_where_they_can_be_none() {
    let started = run(&["move-segment", "owner/repo:dir", "--to-lane", "3"], &[]).unwrap();
    let segment = SegmentName::new("owner/repo:dir").unwrap();
    assert_eq!(started.command, Command::MoveSegment { segment, to_lane: 3 });
    let dashed = run(&["move-segment", "--to-lane", "0", "--", "-s"], &[]).unwrap();
    assert!(matches!(dashed.command, Command::MoveSegment { segment, .. } if segment.as_str() == "-s"));
    for (arguments, part) in [
        (&["s"][..], "--to-lane <NUMBER>"),
        (&["--to-lane", "1"], "<SEGMENT>"),
        (&["s", "--to-lane=-1"], "-1 is not in 0.."),
        (&["s", "--to-lane", "one"], "invalid value 'one'"),
        (&["", "--to-lane", "1"], "must not be empty"),
        (&["a\nb", "--to-lane", "1"], "control character U+000A"),
    ] {
        let error = run(&[&["move-segment"], arguments].concat(), &[]).unwrap_err();
        assert!(matches!(&error, StartError::CommandLine(error) if error.exit_code() == 2));
        assert!(error.to_string().contains(part), "{part} is not in {error}");
    }
}

#[test]
fn only_a_migration_can_be_asked_to_distribute() {
    let command = |flags: &[&str]| run(flags, &[]).map(|started| started.command);
    for (flags, distributed) in [(&["migrate"][..], false), (&["migrate", "--distributed"], true)] {
        assert_eq!(command(flags).unwrap(), Command::Migrate { distributed });
    }
    let error = command(&["serve", "--distributed"]).unwrap_err();
    assert!(matches!(&error, StartError::CommandLine(error) if error.exit_code() == 2));
}

#[test]
fn two_ways_to_the_database_are_one_too_many() {
    let error = run(
        &[
            "serve",
            "--database-url",
            "postgres://h/d",
            "--database-secret-dir",
            "/s",
        ],
        &[],
    )
    .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("--database-secret-dir is given beside database_url"),
        "{error}"
    );
}

#[test]
fn the_cache_has_one_source_of_its_nodes() {
    use crate::runtime::config::{NodesFile, RedisNodes};
    let redis = |flags: &[&str]| {
        let flags: Vec<&str> = std::iter::once("serve").chain(flags.iter().copied()).collect();
        run(&flags, &[])
            .map(|started| started.config.redis)
            .map_err(|error| error.to_string())
    };
    let url = crate::runtime::secrets::Secret::new("redis://a:1");
    assert_eq!(redis(&["--redis-url", " "]), Ok(RedisNodes::None));
    assert_eq!(
        redis(&["--redis-url", "redis://a:1"]),
        Ok(RedisNodes::Urls(vec![url.clone()]))
    );
    let cluster = redis(&["--redis-url", "redis://a:1", "--redis-mode", "cluster"]);
    assert_eq!(cluster, Ok(RedisNodes::Cluster(vec![url])));
    assert_eq!(
        redis(&["--redis-nodes-file", "/n"]),
        Ok(RedisNodes::File(NodesFile::new("/n")))
    );
    for (flags, message) in [
        (
            &["--redis-nodes-file", "/n", "--redis-url", "redis://a:1"][..],
            "--redis-nodes-file is given beside redis_url",
        ),
        (
            &["--redis-nodes-file", "/n", "--redis-mode", "cluster"],
            "--redis-nodes-file is for independent nodes",
        ),
        (
            &["--redis-mode", "cluster"],
            "--redis-mode is cluster, and redis_url names no node of it",
        ),
        (
            &["--redis-mode", "sentinel"],
            "--redis-mode is \"sentinel\": nodes or cluster",
        ),
    ] {
        let error = redis(flags).unwrap_err();
        assert!(error.contains(message) && error.contains("a mistake"), "{error}");
    }
}

#[test]
fn a_password_on_the_command_line_draws_a_warning_and_one_in_the_environment_none() {
    let started = run(&["serve", "--database-url", "postgres://u:hunter2@h/d"], &[]).unwrap();
    assert_eq!(started.warnings.len(), 1);
    assert!(
        started.warnings[0].contains("--database-password-file"),
        "{:?}",
        started.warnings
    );
    assert!(!format!("{started:?}").contains("hunter2"));
    let started = run(
        &["serve"],
        &[("SEGMENT_COUNTER_DATABASE_URL", "postgres://u:hunter2@h/d")],
    )
    .unwrap();
    assert!(started.warnings.is_empty());
}
