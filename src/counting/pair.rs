//! The pair that an application sends, and the removal.

use jiff::Timestamp;

use super::{SegmentName, UserId, Window};

/// A user seen in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Who.
    pub user: UserId,
    /// Where.
    pub segment: SegmentName,
    /// When; absent: at the instant at which the ledger records it, by the database's clock.
    pub observed_at: Option<Timestamp>,
    /// How long it lasts; absent: the segment's window, else the counter's.
    pub ttl: Option<Window>,
}

impl Pair {
    /// When it was observed, in microseconds since the epoch, rounded up: a fraction cut off could let the user leave early.
    #[must_use]
    pub fn observed_micros(&self) -> Option<i64> {
        self.observed_at.map(|at| {
            let micros = at.as_microsecond();
            if at.subsec_nanosecond() % 1_000 > 0 {
                micros + 1
            } else {
                micros
            }
        })
    }
}

/// A user to be taken out of a segment now.
///
/// It has no instant of its own: it is observed when the ledger records it, so that it ends whatever stands there then, beats every pair that
/// says it was observed no later, and none that comes afterwards and says nothing or a later instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Who.
    pub user: UserId,
    /// From where.
    pub segment: SegmentName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_of_a_microsecond_is_rounded_up() {
        let observed = |text: &str| {
            let pair = Pair {
                user: UserId::new("u").unwrap(),
                segment: SegmentName::new("s").unwrap(),
                observed_at: Some(text.parse().unwrap()),
                ttl: None,
            };
            pair.observed_micros().unwrap()
        };
        assert_eq!(observed("1970-01-01T00:00:00.000001Z"), 1);
        assert_eq!(observed("1970-01-01T00:00:00.000000001Z"), 1);
        assert_eq!(observed("1970-01-01T00:00:00.000001001Z"), 2);
        assert_eq!(observed("1969-12-31T23:59:59Z"), -1_000_000);
        assert!(observed("1969-12-31T23:59:59.9999995Z") >= 0);
    }
}
