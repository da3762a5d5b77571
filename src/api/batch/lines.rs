//! Pieces of a body into lines, holding no more than one line.

use memchr::memchr;

use crate::api::pairs::MAX_PAIR_BYTES;

/// A line, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its text; blank ones are not handed out.
    Text(&'a [u8]),
    /// It was longer than [`MAX_PAIR_BYTES`] and is skipped.
    TooLong,
}

/// What is left of the last piece.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    skipping: bool,
    number: u64,
}

impl Lines {
    /// Hands each line that ends in `piece` to `take` with its number, from 1.
    pub(super) fn feed(&mut self, piece: &[u8], mut take: impl FnMut(u64, Line<'_>)) {
        let mut rest = piece;
        while let Some(end) = memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            rest = after;
            self.number += 1;
            if self.skipping {
                self.skipping = false;
            } else if self.begun.is_empty() {
                hand(self.number, line, &mut take);
            } else {
                self.begun
                    .extend_from_slice(&line[..line.len().min(MAX_PAIR_BYTES + 1)]);
                hand(self.number, &self.begun, &mut take);
                self.begun.clear();
            }
        }
        if !self.skipping {
            if self.begun.len() + rest.len() > MAX_PAIR_BYTES {
                self.begun = Vec::new();
                self.skipping = true;
                take(self.number + 1, Line::TooLong);
            } else {
                self.begun.extend_from_slice(rest);
            }
        }
    }

    /// The last line, where no line end follows it.
    pub(super) fn end(&mut self, mut take: impl FnMut(u64, Line<'_>)) {
        if !self.skipping {
            hand(self.number + 1, &self.begun, &mut take);
        }
    }
}

fn hand(number: u64, line: &[u8], take: &mut impl FnMut(u64, Line<'_>)) {
    if line.len() > MAX_PAIR_BYTES {
        take(number, Line::TooLong);
    } else if !line.trim_ascii().is_empty() {
        take(number, Line::Text(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut lines = Lines::default();
        let mut got = Vec::new();
        let mut take = |number: u64, line: Line<'_>| {
            got.push((
                number,
                match line {
                    Line::Text(text) => Some(text.to_vec()),
                    Line::TooLong => None,
                },
            ));
        };
        for piece in pieces {
            lines.feed(piece, &mut take);
        }
        lines.end(&mut take);
        got
    }

    #[test]
    fn blank_lines_are_counted_and_not_handed_out() {
        assert_eq!(
            all(&[b"a\n\n \r\nb"]),
            [(1, Some(b"a".to_vec())), (4, Some(b"b".to_vec()))]
        );
        assert!(all(&[b"", b"\n"]).is_empty());
    }

    #[test]
    fn a_line_without_an_end_is_held_only_up_to_the_limit() {
        let mut lines = Lines::default();
        let mut long = 0;
        for _ in 0..1_000 {
            lines.feed(&[b'x'; 1_000], |_, line| {
                assert_eq!(line, Line::TooLong);
                long += 1;
            });
            assert!(lines.begun.capacity() <= 2 * MAX_PAIR_BYTES);
        }
        assert_eq!(long, 1);
    }

    proptest! {
        #[test]
        fn however_a_body_is_cut_its_lines_are_the_same(
            lines in proptest::collection::vec(prop_oneof!["[a-z]{0,6}", Just("y".repeat(5_000))], 0..8),
            cuts in proptest::collection::vec(0_usize..20_000, 0..6),
        ) {
            let text = lines.join("\n");
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]).collect();
            let want: Vec<(u64, Option<Vec<u8>>)> = (1..)
                .zip(text.split('\n'))
                .filter(|(_, line)| !line.is_empty())
                .map(|(number, line)| (number, (line.len() <= MAX_PAIR_BYTES).then(|| line.as_bytes().to_vec())))
                .collect();
            prop_assert_eq!(all(&pieces), want);
        }
    }
}
