//! When a segment may have been there during a phase, and with which window: it is made by pairs and settings, and deleted meanwhile.

use segment_counter::counting::Window;

use super::phase::{Done, Log};
use crate::model::Model;

/// One segment, as the calls of a phase made and unmade it.
pub struct Existence<'a> {
    /// Its window, where it was there before.
    before: Option<Option<Window>>,
    /// The places of the calls that made it where it was absent.
    makers: Vec<(u64, u64)>,
    /// Those that took it away.
    deletions: Vec<(u64, u64)>,
    /// Those that set its window, a deletion among them: whatever is made anew has none of its own.
    windows: Vec<(u64, u64, Option<Window>)>,
    name: &'a str,
}

/// After everything.
const END: (u64, u64) = (u64::MAX, u64::MAX);

impl<'a> Existence<'a> {
    pub fn of(name: &'a str, model: &Model, logs: &[Log], now: i64) -> Self {
        let before = model.segments.get(name).copied();
        let mut this = Self {
            before,
            makers: Vec::new(),
            deletions: Vec::new(),
            windows: vec![(0, 0, before.flatten())],
            name,
        };
        for log in logs {
            let place = (log.begin, log.end);
            match &log.done {
                Done::Recorded(pairs, _)
                    if pairs
                        .iter()
                        .any(|pair| pair.segment.as_str() == name && !super::judge::ahead(pair, now)) =>
                {
                    this.makers.push(place);
                }
                Done::Put(of, window) if of == name => {
                    this.makers.push(place);
                    this.windows.push((place.0, place.1, window.map(seconds)));
                }
                Done::Deleted(of, true) if of == name => {
                    this.deletions.push(place);
                    this.windows.push((place.0, place.1, None));
                }
                _ => {}
            }
        }
        this
    }

    /// Whether it may have been there at some moment of a call.
    fn may_be(&self, call: (u64, u64)) -> bool {
        let made = self.before.is_some() || self.makers.iter().any(|maker| maker.0 < call.1);
        let for_good = self
            .deletions
            .iter()
            .any(|gone| gone.1 < call.0 && self.makers.iter().all(|maker| maker.1 < gone.0));
        made && !for_good
    }

    /// Whether it may have been absent at some moment of a call.
    fn may_be_absent(&self, call: (u64, u64)) -> bool {
        let never = self.before.is_none() && self.makers.iter().all(|maker| maker.1 > call.0);
        let deleted = self.deletions.iter().any(|gone| {
            let anew = |maker: &(u64, u64)| maker.0 > gone.1 && maker.1 < call.0;
            gone.0 < call.1 && !self.makers.iter().any(anew)
        });
        never || deleted
    }

    /// The windows of its own that may have held at some moment of a call.
    pub fn windows(&self, call: (u64, u64)) -> impl Iterator<Item = Option<Window>> {
        let replaced = move |window: &(u64, u64, Option<Window>)| {
            let by = |other: &(u64, u64, Option<Window>)| other.0 > window.1 && other.1 < call.0;
            self.windows.iter().any(by)
        };
        self.windows
            .iter()
            .filter(move |window| window.0 <= call.1 && !replaced(window))
            .map(|(.., own)| *own)
    }

    /// Whether a call may have found it, or not found it.
    pub fn fits(&self, log: &Log, found: bool) -> Result<(), String> {
        let call = (log.begin, log.end);
        let fits = if found {
            self.may_be(call)
        } else {
            self.may_be_absent(call)
        };
        let or = if found { "was" } else { "was not" };
        fits.then_some(())
            .ok_or_else(|| format!("{} {or} there by {log:?}", self.name))
    }

    /// Whether it may stand so after the phase: its window, or none where it is absent.
    pub fn ends(&self, stands: Option<Option<Window>>) -> Result<(), String> {
        let fits = match stands {
            None => self.may_be_absent(END),
            Some(own) => self.may_be(END) && self.windows(END).any(|window| window == own),
        };
        fits.then_some(())
            .ok_or_else(|| format!("{} ends as {stands:?} after {:?}", self.name, self.windows))
    }
}

pub fn seconds(seconds: i64) -> Window {
    Window::from_seconds(seconds).unwrap()
}
