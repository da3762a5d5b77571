//! Walks through a schedule, and compares every answer and all that stands with the model.

use std::collections::BTreeMap;

use segment_counter::counting::{UserId, Window};
use segment_counter::ledger::{LedgerError, SharedLedger};

use super::judge::{Seen, judge};
use super::phase;
use super::site::Site;
use super::steps::{Member, Schedule, Step, rules};
use super::truth::{Horizon, all_agree, forget_marks};
use crate::model::{Model, SECOND, answers};
use crate::random::disagreement;
use crate::world::{after, name, put, removal};

/// A text, or an error of the ledger: none is expected.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Whether no connection was had in time: on a machine that stood still meanwhile nothing is wrong with the ledger.
fn is_away(failure: &Failure) -> bool {
    let error = match failure.downcast_ref::<phase::Failed>() {
        Some(failed) => Some(&failed.error),
        None => failure.downcast_ref::<LedgerError>(),
    };
    match error {
        Some(LedgerError::Timeout(why)) => why == "no connection came free",
        Some(LedgerError::Unreachable(_)) => true,
        _ => false,
    }
}

struct Walk<'a> {
    site: &'a mut Site,
    model: Model,
    /// The latest instant that the clock has stood at.
    latest: i64,
    seen: &'a mut Seen,
}

/// Why a schedule did not come to its end.
#[derive(Debug)]
pub enum Stopped {
    /// The ledger and the model part: at which step, and how.
    Parted(String),
    /// The ledger could not be asked.
    Away(String),
}

impl From<(usize, Failure)> for Stopped {
    fn from((step, failure): (usize, Failure)) -> Self {
        // The step itself stands in the line that is printed: by its number, counted from 0.
        let why = format!("step {step}: {failure}");
        if is_away(&failure) {
            Self::Away(why)
        } else {
            Self::Parted(why)
        }
    }
}

pub async fn run(schedule: &Schedule, site: &mut Site, seen: &mut Seen) -> Result<(), Stopped> {
    let mut walk = Walk {
        model: Model::new(rules(schedule.rules)),
        latest: site.clock.micros(),
        site,
        seen,
    };
    for (number, step) in schedule.steps.iter().enumerate() {
        walk.step(step).await.map_err(|failure| (number, failure))?;
    }
    let end = schedule.steps.len();
    walk.compare().await.map_err(|failure| (end, failure).into())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, actual: &T, expected: &T) -> Result<(), Failure> {
    if actual == expected {
        Ok(())
    } else {
        Err(format!("{what}: {actual:?}, and the model has {expected:?}").into())
    }
}

impl Walk<'_> {
    fn horizon(&self) -> Horizon {
        let now = self.site.clock.micros();
        Horizon {
            now,
            latest: self.latest.max(now),
            memory: self.model.rules.memory_micros(),
        }
    }

    fn set(&self, micros: i64) {
        self.site.clock.set(after(jiff::Timestamp::UNIX_EPOCH, micros));
    }

    /// All that stands is the model's, and no recount finds anything to mend.
    async fn compare(&mut self) -> Result<(), Failure> {
        all_agree(&self.model, &self.site.stand().await, self.horizon())?;
        self.recount().await
    }

    async fn recount(&mut self) -> Result<(), Failure> {
        let ledger = self.site.ledger(0);
        let all = ledger.least_recently_recounted(1_000).await?;
        for found in ledger.recount(&all).await? {
            if found.drift != 0 {
                return Err(format!("drift: {found:?}").into());
            }
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), Failure> {
        self.take(step).await?;
        let now = self.site.clock.micros();
        self.latest = self.latest.max(now);
        disagreement(&self.site.ledger(0), &self.model, now).await
    }

    async fn take(&mut self, step: &Step) -> Result<(), Failure> {
        let now = self.site.clock.micros();
        let ledger = self.site.ledger(0);
        match step {
            Step::Record(sketches) => {
                let pairs: Vec<_> = sketches.iter().map(|sketch| sketch.at(now)).collect();
                let recorded = ledger.record(&pairs).await?;
                same("outcomes", &answers(&recorded.pairs), &self.model.record(&pairs, now))?;
                same("instant", &recorded.at.as_microsecond(), &now)?;
                for (pair, window) in pairs.iter().zip(&recorded.windows) {
                    // None where only pairs from the future name it.
                    let own = self.model.segments.get(pair.segment.as_str()).copied().flatten();
                    same("window", window, &own)?;
                }
                Ok(())
            }
            Step::Wait(micros) => {
                self.set(now + micros);
                Ok(())
            }
            Step::Edge(past) => {
                if let Some(edge) = self.model.ends().into_iter().find(|end| *end > now + 1) {
                    self.set(edge + past);
                }
                Ok(())
            }
            Step::Back(micros) => {
                self.set((now - micros).max(self.latest - 299 * SECOND));
                Ok(())
            }
            Step::Put(segment, window) => {
                let segment = format!("s{segment}");
                let answer = ledger.put_segment(&put(&segment, *window)).await?;
                same("created", &answer.created, &!self.model.segments.contains_key(&segment))?;
                let window = window.map(|seconds| Window::from_seconds(seconds).unwrap());
                self.model.segments.insert(segment, window);
                Ok(())
            }
            Step::Remove(members) => self.remove(members, &ledger, now).await,
            Step::Delete(segment) => {
                let segment = format!("s{segment}");
                let deleted = ledger.delete_segment(&name(&segment)).await?;
                same("deleted", &deleted.is_some(), &self.model.delete_segment(&segment))
            }
            Step::Erase(user) => {
                let user = format!("u{user}");
                let erasure = ledger.erase(&UserId::new(user.as_str()).unwrap()).await?;
                let at = erasure.erased_at.as_microsecond();
                same("erased in the future", &(at > self.horizon().latest), &false)?;
                self.model.erase(&user, now, at)?;
                same(
                    "kept out until",
                    &erasure.suppressed_until.as_microsecond(),
                    &self.model.erased[&user].until,
                )?;
                same("something is left", &self.site.mentions(&user).await, &false)
            }
            Step::Archive(limit) => {
                let mut batch = ledger.archive_batch(None, *limit).await?;
                while let Some(next) = batch.next {
                    batch = ledger.archive_batch(Some(next), *limit).await?;
                }
                let (stand, horizon) = (self.site.stand().await, self.horizon());
                forget_marks(&mut self.model, &stand, horizon);
                Ok(all_agree(&self.model, &stand, horizon)?)
            }
            Step::Sweep => {
                ledger.sweep(30).await?;
                self.model.sweep(now);
                Ok(all_agree(&self.model, &self.site.stand().await, self.horizon())?)
            }
            Step::Recount => self.recount().await,
            Step::Reopen(number) => {
                self.site.reopen(*number).await;
                self.model.rules = rules(*number);
                Ok(())
            }
            Step::Phase(phase) => {
                let logs = phase::run(phase, self.site).await?;
                let (stand, horizon) = (self.site.stand().await, self.horizon());
                judge(self.site.on, &logs, &mut self.model, &stand, horizon, self.seen)?;
                self.compare().await
            }
        }
    }

    async fn remove(&mut self, members: &[Member], ledger: &SharedLedger, now: i64) -> Result<(), Failure> {
        let names = |(segment, user): &Member| (format!("s{segment}"), format!("u{user}"));
        let removals: Vec<_> = members.iter().map(names).map(|(s, u)| removal(&s, &u)).collect();
        let removed = ledger.remove(&removals).await?;
        same("instant", &removed.at.as_microsecond(), &now)?;
        let mut before: BTreeMap<&Member, _> = BTreeMap::new();
        for (member, outcome) in members.iter().zip(removed.outcomes) {
            // Named twice, it was in the segment just before for both.
            let (segment, user) = names(member);
            let expected = before
                .entry(member)
                .or_insert_with(|| self.model.remove(&segment, &user, now));
            same("outcome", &outcome, expected)?;
        }
        Ok(())
    }
}
