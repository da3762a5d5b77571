//! Names that clients choose: opaque UTF-8, proven once and carried as values that cannot be wrong.

use std::fmt;

use compact_str::CompactString;

/// The longest segment or user name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 128;

/// Why a name is refused; the message names the cure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no bytes.
    #[error("must not be empty: 1 to {MAX_NAME_BYTES} bytes of UTF-8")]
    Empty,
    /// The name has more than [`MAX_NAME_BYTES`] bytes.
    #[error("is {0} bytes long: at most {MAX_NAME_BYTES} bytes of UTF-8 are allowed")]
    TooLong(usize),
    /// The name holds a control character, which no log, header or terminal could carry safely.
    #[error("holds the control character U+{0:04X}: control characters are not allowed")]
    Control(u32),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > MAX_NAME_BYTES {
        return Err(NameError::TooLong(text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(NameError::Control(u32::from(c))),
        None => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        ///
        /// Ordered by its bytes, as `COLLATE "C"` orders it in the ledger: batches are sorted the same way on both sides. Names of up to 24 bytes
        /// lie in the value itself: hundreds of thousands may wait for their commit.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(CompactString);

        impl $type {
            /// Proves `text` to be a name.
            ///
            /// # Errors
            /// [`NameError`] when it is empty, longer than [`MAX_NAME_BYTES`] or holds a control character.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                check(text)?;
                Ok(Self(CompactString::new(text)))
            }

            /// The name's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }
    };
}

name! {
    /// The name of a segment.
    SegmentName
}
name! {
    /// The name of a user.
    UserId
}

/// A segment's number in the ledger: what caches and counters are keyed by, so that no client's text ever becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_any_printable_text_of_128_bytes() {
        for good in ["a", "owner/repo:dir", "ünïcødé ✓", &"x".repeat(128)] {
            assert_eq!(SegmentName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_bad_name_is_refused_with_its_reason() {
        assert_eq!(UserId::new(""), Err(NameError::Empty));
        assert_eq!(UserId::new("x".repeat(129)), Err(NameError::TooLong(129)));
        assert_eq!(UserId::new("é".repeat(65)), Err(NameError::TooLong(130)));
        assert_eq!(UserId::new("a\nb"), Err(NameError::Control(0x0a)));
        assert_eq!(UserId::new("a\u{85}b"), Err(NameError::Control(0x85)));
    }

    #[test]
    fn names_are_ordered_by_their_bytes() {
        let name = |text: &str| UserId::new(text).unwrap();
        assert!(name("B") < name("a"));
        assert!(name("z") < name("é"));
    }
}
