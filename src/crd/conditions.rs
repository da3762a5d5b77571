//! The names that programs read: types of conditions, and reasons. Events use the same reasons.

use std::fmt;

/// An enum whose variants are their own names on the wire, so that a name is written once.
macro_rules! names {
    ($(#[$head:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$head])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// Every one of them, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name as it stands in the object.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($variant),)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// Type of a condition. The order is that of `status.conditions`.
    ConditionType {
        /// The API answers, from a ledger that is there and of this version: the conjunction of APIAvailable, PostgresReady and
        /// SchemaCurrent; of CacheReady too where `onCacheFailure` is Fail.
        Ready,
        /// All replicas run what the spec asks for and are available.
        APIAvailable,
        /// The operator logged in to Postgres with the application's own credentials.
        PostgresReady,
        /// The same for each node of the cache.
        CacheReady,
        /// The ledger says that its schema is this version's.
        SchemaCurrent,
        /// The last archive is younger than staleAfterSeconds.
        ArchiveCurrent,
        /// The last refresh is younger than staleAfterSeconds, and found no drift.
        CountsCurrent,
        /// Present only while the operator is bringing about what the spec asks for.
        Reconciling,
        /// Present only while the operator cannot go on without somebody's help.
        Stalled,
    }
}

names! {
    /// Status of a condition.
    ConditionStatus {
        /// It is so.
        True,
        /// It is not so.
        False,
        /// It was never tried, or could not be told.
        Unknown,
    }
}

names! {
    /// Why a condition is as it is.
    Reason {
        // Ready
        /// All that Ready stands for is true.
        AllReady,

        // APIAvailable, and Ready and Reconciling while it is on its way
        /// All replicas are updated and available.
        AllReplicasAvailable,
        /// A new revision is rolling out.
        RollingOut,
        /// Replicas are missing, and nothing is rolling out.
        ReplicasUnavailable,
        /// The rollout has made no progress for too long.
        RolloutStuck,
        /// An image cannot be pulled.
        ImagePullFailed,
        /// A container ends again and again, or cannot be started.
        CrashLooping,
        /// No node takes a pod.
        Unschedulable,
        /// The Deployment is not there yet.
        NotCreated,

        // PostgresReady and CacheReady
        /// The login succeeded.
        LoggedIn,
        /// The server refused the user or the password.
        AuthenticationFailed,
        /// No connection came about.
        Unreachable,
        /// The server's certificate is not trusted.
        TLSUntrusted,
        /// The user may not do what the ledger needs.
        MissingPrivilege,
        /// The server takes no writes.
        ReadOnly,
        /// The server would acknowledge what a crash can lose.
        NotDurable,
        /// The server let the operator in and failed.
        DatabaseFailed,
        /// The server is older than what is supported.
        UnsupportedVersion,
        /// The Secret is not there.
        SecretNotFound,
        /// The Secret lacks a key, or one of its values is no good.
        SecretKeyMissing,
        /// There is nothing to log in to.
        NotConfigured,
        /// It was not tried yet.
        NotProbed,

        // SchemaCurrent
        /// The schema is this version's.
        SchemaMatches,
        /// The schema is older; the migration has not ended yet.
        Migrating,
        /// The migration failed.
        MigrationFailed,
        /// The schema is newer than this version can serve.
        SchemaTooNew,

        // ArchiveCurrent and CountsCurrent
        /// The last success is young enough.
        Fresh,
        /// The last success is too long ago.
        Stale,
        /// The job never ran.
        NotYetRun,
        /// The last run failed.
        JobFailed,
        /// A recount differed from its counter.
        DriftFound,

        // Reconciling and Stalled
        /// What is wanted is being applied.
        Applying,
        /// The spec asks for something impossible; the message names the field.
        InvalidSpec,
        /// The API server refused what was applied.
        ApplyFailed,
        /// The operator lacks a permission.
        Forbidden,
        /// An object of a child's name exists and belongs to somebody else.
        NameConflict,
    }
}
