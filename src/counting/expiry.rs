//! When a membership ends: rules 1, 3 and 9.

use jiff::Timestamp;

/// The window where nothing else is said: two weeks.
pub const DEFAULT_WINDOW_SECONDS: i64 = 1_209_600;
/// The grain of expiry where nothing else is said: a minute.
pub const DEFAULT_RESOLUTION_SECONDS: i64 = 60;
/// The longest window, about 31 years.
pub const MAX_WINDOW_SECONDS: i64 = 1_000_000_000;
/// The coarsest resolution: a day.
pub const MAX_RESOLUTION_SECONDS: i64 = 86_400;
/// The most instants at which the members of one segment may leave (window / resolution): what a segment's counters may weigh.
pub const MAX_BUCKETS: i64 = 10_000_000;
/// The longest window of a segment or a pair where nothing else is said: a year, or the counter's own window where that is longer.
pub const DEFAULT_MAX_TTL_SECONDS: i64 = 31_536_000;
/// How far ahead of the database's clock a pair may have been observed: the clocks of honest clients differ by less.
pub const MAX_FUTURE_SECONDS: i64 = 300;

const MICROS: i64 = 1_000_000;

/// Why a window or a resolution is refused; the message names the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A window outside 1 ..= [`MAX_WINDOW_SECONDS`].
    #[error("is {0}: a window is 1 to {MAX_WINDOW_SECONDS} seconds")]
    Window(i64),
    /// A resolution outside 1 ..= [`MAX_RESOLUTION_SECONDS`].
    #[error("is {0}: a resolution is 1 to {MAX_RESOLUTION_SECONDS} seconds")]
    Resolution(i64),
    /// A window above the counter's longest one.
    #[error("is {window_seconds}: the longest window here is {max_ttl_seconds} seconds (max_ttl_seconds)")]
    TooLong {
        /// The window, in seconds.
        window_seconds: i64,
        /// The longest one, in seconds.
        max_ttl_seconds: i64,
    },
    /// A window of more than [`MAX_BUCKETS`] resolutions.
    #[error(
        "is {window_seconds}, {} times the resolution of {resolution_seconds} seconds: at most {MAX_BUCKETS} times is allowed",
        window_seconds / resolution_seconds
    )]
    TooManyBuckets {
        /// The window, in seconds.
        window_seconds: i64,
        /// The resolution, in seconds.
        resolution_seconds: i64,
    },
}

/// How long a pair lasts, in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window(i64);

impl Window {
    /// A window of `seconds`.
    ///
    /// # Errors
    /// [`RuleError::Window`] outside 1 ..= [`MAX_WINDOW_SECONDS`].
    pub fn from_seconds(seconds: i64) -> Result<Self, RuleError> {
        if (1..=MAX_WINDOW_SECONDS).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(RuleError::Window(seconds))
        }
    }

    /// The window in seconds.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0
    }
}

/// The grain of expiry, in whole seconds: memberships end at multiples of it since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resolution(i64);

impl Resolution {
    /// A resolution of `seconds`.
    ///
    /// # Errors
    /// [`RuleError::Resolution`] outside 1 ..= [`MAX_RESOLUTION_SECONDS`].
    pub fn from_seconds(seconds: i64) -> Result<Self, RuleError> {
        if (1..=MAX_RESOLUTION_SECONDS).contains(&seconds) {
            Ok(Self(seconds))
        } else {
            Err(RuleError::Resolution(seconds))
        }
    }

    /// The resolution in seconds.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0
    }
}

/// What a counter counts by: the window of pairs that name none, the resolution of all, and the longest window that any may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    window: Window,
    resolution: Resolution,
    max_ttl: Window,
}

impl Rules {
    /// Rules of a window and a resolution that go together. The longest window is [`DEFAULT_MAX_TTL_SECONDS`], or `window` where that is longer.
    ///
    /// # Errors
    /// [`RuleError::TooManyBuckets`] where `window` is more than [`MAX_BUCKETS`] resolutions.
    pub fn new(window: Window, resolution: Resolution) -> Result<Self, RuleError> {
        let max_ttl = Window(DEFAULT_MAX_TTL_SECONDS.max(window.0));
        let rules = Self {
            window,
            resolution,
            max_ttl,
        };
        rules.admit(window)?;
        Ok(rules)
    }

    /// The same, with another longest window.
    ///
    /// # Errors
    /// [`RuleError::TooLong`] where the counter's own window is longer.
    pub fn with_max_ttl(self, max_ttl: Window) -> Result<Self, RuleError> {
        let rules = Self { max_ttl, ..self };
        rules.admit(self.window)?;
        Ok(rules)
    }

    /// Checks that `window` (of a segment or a pair) goes with the longest one and with the resolution.
    ///
    /// # Errors
    /// [`RuleError::TooLong`] and [`RuleError::TooManyBuckets`] where it does not.
    pub fn admit(&self, window: Window) -> Result<(), RuleError> {
        if window > self.max_ttl {
            return Err(RuleError::TooLong {
                window_seconds: window.0,
                max_ttl_seconds: self.max_ttl.0,
            });
        }
        if window.0 / self.resolution.0 > MAX_BUCKETS {
            return Err(RuleError::TooManyBuckets {
                window_seconds: window.0,
                resolution_seconds: self.resolution.0,
            });
        }
        Ok(())
    }

    /// The window of pairs whose segment and self name none.
    #[must_use]
    pub fn window(&self) -> Window {
        self.window
    }

    /// The grain of expiry.
    #[must_use]
    pub fn resolution(&self) -> Resolution {
        self.resolution
    }

    /// The longest window of a segment or a pair.
    #[must_use]
    pub fn max_ttl(&self) -> Window {
        self.max_ttl
    }

    /// The window of a pair: its own, else its segment's, else the counter's. A segment's that was set while a longer one was allowed is cut.
    #[must_use]
    pub fn effective(&self, pair: Option<Window>, segment: Option<Window>) -> Window {
        pair.or(segment).unwrap_or(self.window).min(self.max_ttl)
    }

    /// How long a removal or an erasure must be remembered: until whatever was observed before it would have ended, in microseconds.
    #[must_use]
    pub fn memory_micros(&self) -> i64 {
        (self.max_ttl.0 + self.resolution.0) * MICROS
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            window: Window(DEFAULT_WINDOW_SECONDS),
            resolution: Resolution(DEFAULT_RESOLUTION_SECONDS),
            max_ttl: Window(DEFAULT_MAX_TTL_SECONDS),
        }
    }
}

/// Rule 1: the instant at which a membership ends: `ceil(observed_at + window, resolution)`, in microseconds since the epoch both ways.
///
/// Epoch arithmetic in UTC: no calendar, so no day of 23 hours. Saturates at the ends of `i64`, which no timestamp reaches.
#[must_use]
pub fn expires_at(observed_micros: i64, window: Window, resolution: Resolution) -> i64 {
    let end = observed_micros.saturating_add(window.0 * MICROS);
    let grain = resolution.0 * MICROS;
    match end.rem_euclid(grain) {
        0 => end,
        past => end.saturating_add(grain - past),
    }
}

/// Rule 3: whether a membership that ends at `expires_at` holds at `instant`.
#[must_use]
pub fn is_member(expires_at: Timestamp, instant: Timestamp) -> bool {
    expires_at > instant
}

/// Rule 9: whether a pair was observed further ahead of `now` than honest clocks differ (both in microseconds since the epoch).
#[must_use]
pub fn is_too_far_ahead(observed_micros: i64, now_micros: i64) -> bool {
    observed_micros > now_micros.saturating_add(MAX_FUTURE_SECONDS * MICROS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_window_and_a_resolution_have_bounds() {
        assert_eq!(Window::from_seconds(0), Err(RuleError::Window(0)));
        assert_eq!(
            Window::from_seconds(MAX_WINDOW_SECONDS + 1),
            Err(RuleError::Window(MAX_WINDOW_SECONDS + 1))
        );
        assert_eq!(Resolution::from_seconds(86_401), Err(RuleError::Resolution(86_401)));
        let window = Window::from_seconds(10_000_001).unwrap();
        let error = Rules::new(window, Resolution::from_seconds(1).unwrap()).unwrap_err();
        assert!(
            error.to_string().contains("10000001 times the resolution of 1 seconds"),
            "{error}"
        );
    }

    #[test]
    fn no_window_is_longer_than_the_longest() {
        let window = |seconds| Window::from_seconds(seconds).unwrap();
        let rules = Rules::new(window(600), Resolution::from_seconds(60).unwrap()).unwrap();
        assert_eq!(rules.max_ttl(), window(DEFAULT_MAX_TTL_SECONDS));
        let rules = rules.with_max_ttl(window(3_600)).unwrap();
        assert_eq!(rules.admit(window(3_600)), Ok(()));
        let error = rules.admit(window(3_601)).unwrap_err();
        assert!(
            error.to_string().contains("the longest window here is 3600 seconds"),
            "{error}"
        );
        assert_eq!(rules.effective(None, Some(window(9_000))), window(3_600));
        assert_eq!(rules.effective(Some(window(60)), Some(window(9_000))), window(60));
        assert!(rules.with_max_ttl(window(599)).is_err());
        let decades = Rules::new(window(315_360_000), Resolution::from_seconds(60).unwrap()).unwrap();
        assert_eq!(decades.max_ttl(), window(315_360_000));
    }

    #[test]
    fn an_end_on_the_grain_stays_where_it_is() {
        let (window, minute) = (Window(120), Resolution(60));
        assert_eq!(expires_at(60 * MICROS, window, minute), 180 * MICROS);
        assert_eq!(expires_at(60 * MICROS + 1, window, minute), 240 * MICROS);
        assert_eq!(expires_at(-1, window, minute), 120 * MICROS);
    }

    proptest! {
        #[test]
        fn nobody_leaves_early_and_nobody_stays_longer_than_one_resolution(
            observed in -4_000_000_000_000_000_i64..4_000_000_000_000_000,
            window in 1..MAX_WINDOW_SECONDS,
            resolution in 1..=MAX_RESOLUTION_SECONDS,
        ) {
            let end = expires_at(observed, Window(window), Resolution(resolution));
            let due = observed + window * MICROS;
            prop_assert!(end >= due);
            prop_assert!(end - due < resolution * MICROS);
            prop_assert_eq!(end.rem_euclid(resolution * MICROS), 0);
        }
    }
}
