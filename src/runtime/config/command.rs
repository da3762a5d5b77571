//! The command line: the commands, and a flag for each key.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches};

use super::keys::{KEYS, VARIABLE_PREFIX};
use super::layers::{Merged, Origin};
use super::{Config, ConfigError};
use crate::counting::SegmentName;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run the API.
    Serve,
    /// Bring the database's schema to this version.
    Migrate {
        /// Whether Citus is to put the lanes on machines of their own.
        distributed: bool,
    },
    /// Move what has ended into the history.
    Archive,
    /// Recount.
    Refresh,
    /// Move a segment to another lane.
    MoveSegment {
        /// Which.
        segment: SegmentName,
        /// The number of the lane it shall live in.
        to_lane: i32,
    },
}

/// How a command is written.
struct Verb {
    name: &'static str,
    about: &'static str,
    /// What it takes beside the keys.
    arguments: fn() -> Vec<Arg>,
    /// Reads them; `None` where clap let one pass that it requires, which it does not.
    read: fn(&ArgMatches) -> Option<Command>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "serve",
        about: "Run the API, with an embedded database where no other is named",
        arguments: Vec::new,
        read: |_| Some(Command::Serve),
    },
    Verb {
        name: "migrate",
        about: "Bring the database's schema to this version",
        arguments: migrate_arguments,
        read: |given| {
            Some(Command::Migrate {
                distributed: given.get_flag("distributed"),
            })
        },
    },
    Verb {
        name: "archive",
        about: "Move memberships that have ended into the history",
        arguments: Vec::new,
        read: |_| Some(Command::Archive),
    },
    Verb {
        name: "refresh",
        about: "Recount every segment and compare with its counters",
        arguments: Vec::new,
        read: |_| Some(Command::Refresh),
    },
    Verb {
        name: "move-segment",
        about: "Move a segment to another lane while it is written",
        arguments: move_arguments,
        read: |given| {
            Some(Command::MoveSegment {
                segment: given.get_one::<SegmentName>("segment")?.clone(),
                to_lane: *given.get_one::<i32>("to_lane")?,
            })
        },
    },
];

fn migrate_arguments() -> Vec<Arg> {
    vec![
        Arg::new("distributed")
            .long("distributed")
            .action(ArgAction::SetTrue)
            .help("Put each lane on a machine of its own by Citus, which the database must have; once done it stays, also without this flag"),
    ]
}

fn move_arguments() -> Vec<Arg> {
    vec![
        Arg::new("segment")
            .value_name("SEGMENT")
            .required(true)
            .value_parser(|text: &str| SegmentName::new(text))
            .help("The segment's name; behind -- where it begins with a dash"),
        Arg::new("to_lane")
            .long("to-lane")
            .value_name("NUMBER")
            .required(true)
            .allow_hyphen_values(true)
            .value_parser(clap::value_parser!(i32).range(0..))
            .help("The lane that it shall live in, counted from 0"),
    ]
}

/// The variable of `--config`.
const CONFIG_VARIABLE: &str = "SEGMENT_COUNTER_CONFIG";

/// A command with its configuration.
#[derive(Debug)]
pub struct Started {
    /// What to do.
    pub command: Command,
    /// By which configuration.
    pub config: Config,
    /// What to say at the start.
    pub warnings: Vec<String>,
}

/// The command line as clap knows it.
#[must_use]
pub fn command_line() -> clap::Command {
    let mut line = clap::Command::new("segment-counter")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Exact counts of the users in a segment, at memory speed")
        .after_help(
            "Each flag is also SEGMENT_COUNTER_ and its upper-case name in the environment, and its snake_case name in the file of --config; \
             a flag wins over the environment, the environment over the file.",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .global(true)
                .value_parser(clap::value_parser!(PathBuf))
                .help_heading("Configuration")
                .help("A YAML file of keys; an unknown key is refused"),
        );
    for key in KEYS {
        let default = key
            .default
            .map(|value| format!(" [default: {value}]"))
            .unwrap_or_default();
        line = line.arg(
            Arg::new(key.name)
                .long(key.flag())
                .value_name(key.value)
                .global(true)
                .action(if key.many { ArgAction::Append } else { ArgAction::Set })
                .allow_hyphen_values(true)
                .help_heading(key.section.heading())
                .help(format!("{}{default}", key.help)),
        );
    }
    for verb in VERBS {
        line = line.subcommand(clap::Command::new(verb.name).about(verb.about).args((verb.arguments)()));
    }
    line
}

/// Reads the command line, the environment and the file.
///
/// # Errors
/// [`StartError`]: what clap says (help and version too), or every mistake of the configuration.
pub fn start(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Started, StartError> {
    let matches = command_line().try_get_matches_from(arguments)?;
    let (command, given) = VERBS
        .iter()
        .find_map(|verb| {
            let given = matches.subcommand_matches(verb.name)?;
            Some(((verb.read)(given)?, given))
        })
        .ok_or_else(|| clap::Error::new(clap::error::ErrorKind::MissingSubcommand))?;

    let mut merged = Merged::defaults();
    let mut problems = Vec::new();
    let environment: Vec<_> = environment.into_iter().collect();
    let named = environment
        .iter()
        .find(|(name, path)| name == CONFIG_VARIABLE && !path.is_empty());
    let file = given
        .get_one::<PathBuf>("config")
        .cloned()
        .or_else(|| named.map(|(_, path)| PathBuf::from(path)));
    if let Some(path) = file
        && let Err(error) = merged.file(&path)
    {
        problems.extend(error.problems);
    }
    let unknown = merged.environment(environment);
    for key in KEYS {
        if let Some(values) = given.get_many::<String>(key.name) {
            merged.set(key, Origin::Flag, values.cloned().collect());
        }
    }
    let mut warnings: Vec<String> = unknown
        .iter()
        .map(|name| format!("{name} is in the environment, begins with {VARIABLE_PREFIX} and is no key of ours"))
        .collect();
    match Config::judge(&merged) {
        Ok((config, more)) if problems.is_empty() => {
            warnings.extend(more);
            Ok(Started {
                command,
                config,
                warnings,
            })
        }
        Ok(_) => Err(ConfigError { problems }.into()),
        Err(error) => {
            problems.extend(error.problems);
            Err(ConfigError { problems }.into())
        }
    }
}

/// Why a command did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What clap says: also help and version, which are no failures.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// Mistakes.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

#[cfg(test)]
mod tests;
