//! The table, and rows that were measured elsewhere.

use std::fmt::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Ratio;

/// One line of the table. What another harness measured comes as a JSON array of these.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// What came out.
    pub measured: String,
    /// What it is compared with.
    #[serde(default)]
    pub beside: String,
    /// What came out there, in the same run.
    #[serde(default)]
    pub limit: String,
    /// The one by the other.
    #[serde(default)]
    pub ratio: String,
    /// What is expected now.
    #[serde(default)]
    pub now: String,
    /// What must be reached in the end.
    #[serde(default)]
    pub at_last: String,
}

/// What a ratio must reach.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Row {
    pub fn new(work: &str, measured: impl Into<String>) -> Self {
        Self {
            work: work.to_owned(),
            measured: measured.into(),
            beside: String::new(),
            limit: String::new(),
            ratio: String::new(),
            now: String::new(),
            at_last: String::new(),
        }
    }

    pub fn beside(mut self, what: &str, limit: impl Into<String>) -> Self {
        self.beside = what.to_owned();
        self.limit = limit.into();
        self
    }

    /// The ratio, its spread over the rounds, and what it is held to: half of the limit now, all of it in the end.
    pub fn ratio(self, ratio: Ratio, bound: Bound) -> Self {
        let mut row = self.unbounded_ratio(ratio);
        (row.now, row.at_last) = match bound {
            Bound::AtLeast(limit) => (
                held(ratio.median >= limit / 2.0, "≥", limit / 2.0),
                held(ratio.median >= limit, "≥", limit),
            ),
            Bound::AtMost(limit) => (
                held(ratio.median <= limit * 2.0, "≤", limit * 2.0),
                held(ratio.median <= limit, "≤", limit),
            ),
        };
        row
    }

    /// A ratio that is held to nothing.
    pub fn unbounded_ratio(mut self, ratio: Ratio) -> Self {
        self.ratio = format!("**{:.2}** ({:.2} to {:.2})", ratio.median, ratio.least, ratio.greatest);
        self
    }

    /// An amount that is held to a bound and has nothing beside it.
    pub fn at_most(mut self, amount: f64, limit: f64, unit: &str) -> Self {
        self.now = held(amount <= limit * 2.0, "≤", limit * 2.0) + " " + unit;
        self.at_last = held(amount <= limit, "≤", limit) + " " + unit;
        self
    }
}

fn held(holds: bool, sign: &str, bound: f64) -> String {
    format!("{} {sign} {bound}", if holds { "✓" } else { "✗" })
}

/// Rows of another harness.
pub fn read(file: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{} is no JSON array of rows: {error}", file.display()))
}

/// Markdown.
pub fn render(rows: &[Row]) -> String {
    let mut text =
        "| work | measured | beside | limit | ratio | now | at last |\n|---|---|---|---|---|---|---|\n".to_owned();
    for row in rows {
        let cells = [
            &row.work,
            &row.measured,
            &row.beside,
            &row.limit,
            &row.ratio,
            &row.now,
            &row.at_last,
        ];
        let line: Vec<&str> = cells.into_iter().map(String::as_str).collect();
        writeln!(text, "| {} |", line.join(" | ")).unwrap();
    }
    text
}

/// `12,345`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
