//! The truth: one trait, PostgreSQL and SQLite behind it, each with its migrations.
