//! The end of segments, and of the processes that wrote them.
//!
//! A segment goes when all takers have passed it. The last one of a dead process goes only after it was told that the process
//! is over, so a crash in between tells it again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use tokio::sync::watch;
use tokio::time::sleep;

use super::outlet::Outlet;
use super::upkeep::Retry;
use super::{Feeder, Shared, stopped};
use crate::error::StoreError;
use crate::ledger::journal::{Segment, owner_of};

impl Shared {
    /// Lets every segment go that all takers have passed; the last ones of dead owners are left to
    /// [`Feeder::end_owners_again_and_again`] if somebody is to be told.
    pub(super) async fn retire(&self, tells_owners: bool) -> std::io::Result<()> {
        // Whoever comes while another is at it has nothing to add: that one is waited for at the next pass.
        let Ok(_alone) = self.retiring.try_lock() else { return Ok(()) };
        for segment in self.passed_by_all() {
            if !self.is_kept_by_all(&segment).await {
                continue;
            }
            let owner = owner_of(segment.name()).filter(|owner| tells_owners && *owner != self.journal.owner());
            let Some(owner) = owner else {
                self.let_go(&segment)?;
                continue;
            };
            if !self.journal.has_other_segments(owner, segment.name())? {
                self.ending.notify_one();
                continue;
            }
            self.let_go(&segment)?;
            // Another process may have let go of the last one meanwhile, and not told it for the sake of this one.
            if !self.journal.has_other_segments(owner, segment.name())? {
                self.bereft.lock().unwrap_or_else(PoisonError::into_inner).push(owner.to_owned());
                self.ending.notify_one();
            }
        }
        Ok(())
    }

    fn passed_by_all(&self) -> Vec<Arc<Segment>> {
        let all = self.all();
        let mut queue = self.journal.queue();
        queue.retain(|segment| segment.is_finished() && segment.passed() & all == all);
        queue
    }

    fn all(&self) -> u64 {
        (1 << self.doors.len()) - 1
    }

    /// Whether all takers still have what they took of it, asked one by one. One that was rebuilt from another taker after a loss
    /// may have less, if that happened before the other had it all.
    async fn is_kept_by_all(&self, segment: &Segment) -> bool {
        for (number, door) in self.doors.iter().enumerate() {
            match door.consumer.position(segment.name()).await {
                Ok(byte) if byte >= segment.written() => {}
                // Whoever ends owners may have let it go meanwhile; then its position is forgotten, not lost.
                Ok(_) if !self.journal.queue().iter().any(|other| other.name() == segment.name()) => return false,
                Ok(_) => {
                    tracing::warn!(
                        taker = door.consumer.name(),
                        "the journal's lines were taken and lost; they are given again"
                    );
                    segment.pass_again(1 << number);
                    door.has_lost.store(true, Ordering::SeqCst);
                    door.wake.notify_one();
                    return false;
                }
                // It is asked again at the next pass.
                Err(_) => return false,
            }
        }
        true
    }

    fn let_go(&self, segment: &Arc<Segment>) -> std::io::Result<()> {
        self.journal.retire(segment)?;
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.entry(segment.name().to_string()).or_default();
        Ok(())
    }

    /// Records that one taker keeps no position of a segment that is gone; the last one buries it.
    pub(super) fn forgotten(&self, name: &str, bit: u64) -> std::io::Result<()> {
        let all = self.all();
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bits) = gone.get_mut(name) else { return Ok(()) };
        if (*bits | bit) & all == all {
            self.journal.bury(name)?;
            gone.remove(name);
        } else {
            *bits |= bit;
        }
        Ok(())
    }
}

impl Feeder {
    /// Finds what earlier processes have left of segments that are gone.
    pub(super) fn find_gone(&self) {
        match self.shared.journal.gone() {
            Ok(names) => {
                let mut gone = self.shared.gone.lock().unwrap_or_else(PoisonError::into_inner);
                gone.extend(names.into_iter().map(|name| (name, 0)));
            }
            Err(cause) => {
                tracing::warn!(%cause, "the journal folder cannot be searched; positions of old segments stay")
            }
        }
    }

    /// Tells of the end of dead owners until `stop`.
    pub(super) async fn end_owners_again_and_again(&self, mut stop: watch::Receiver<bool>) {
        if self.owner_end.is_none() {
            return;
        }
        let mut retry = Retry::default();
        loop {
            tokio::select! {
                () = self.shared.ending.notified() => {}
                () = stopped(&mut stop) => return,
            }
            while let Err(cause) = self.end_owners().await {
                tracing::warn!(%cause, "the leases of a process that is over cannot be freed; tried again");
                tokio::select! {
                    () = sleep(retry.pause()) => {}
                    () = stopped(&mut stop) => return,
                }
            }
            retry = Retry::default();
        }
    }

    /// Tells of the end of each dead owner whose last segment everybody has passed, and lets that segment go.
    pub(super) async fn end_owners(&self) -> Result<(), StoreError> {
        let Some(owner_end) = &self.owner_end else { return Ok(()) };
        let away = |cause: std::io::Error| StoreError::Away(Box::new(cause));
        let own = self.shared.journal.owner();
        for segment in self.shared.passed_by_all() {
            let Some(owner) = owner_of(segment.name()).filter(|owner| *owner != own) else { continue };
            if self.shared.journal.has_other_segments(owner, segment.name()).map_err(away)? {
                continue;
            }
            if !self.shared.is_kept_by_all(&segment).await {
                return Err(StoreError::Away("somebody who took its lines is away, or has lost them".into()));
            }
            owner_end.owner_finished(owner).await?;
            tracing::info!(owner, "everything of a process that is over has been applied");
            self.shared.let_go(&segment).map_err(away)?;
        }
        loop {
            let bereft = self.shared.bereft.lock().unwrap_or_else(PoisonError::into_inner).last().cloned();
            let Some(owner) = bereft else { break };
            owner_end.owner_finished(&owner).await?;
            self.shared.bereft.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != owner);
        }
        for door in &self.shared.doors {
            // They forget its position soon.
            door.wake.notify_one();
        }
        Ok(())
    }

    /// The last step of a stop: lets go of what all have, and ends this process's own name if that is everything.
    pub(super) async fn end(&self, all_fed: bool) {
        if let Err(cause) = self.end_owners().await {
            tracing::warn!(%cause, "the leases of a process that is over cannot be freed; the next start tries again");
        }
        let mut clean = all_fed;
        for number in 0..self.shared.doors.len() {
            let outlet = Outlet::new(&self.shared, number, false);
            clean &= outlet.forget_gone().await.is_ok() && outlet.sync().await.is_ok();
        }
        let journal = &self.shared.journal;
        let own = journal.owner();
        let last = journal.queue().pop();
        let alone = last.is_some_and(|last| matches!(journal.has_other_segments(&own, last.name()), Ok(false)));
        if !clean || !alone {
            return;
        }
        if let Some(owner_end) = &self.owner_end
            && let Err(cause) = owner_end.owner_finished(&own).await
        {
            tracing::warn!(%cause, "the leases of this process cannot be freed; the next start does it");
            return;
        }
        journal.keep(false);
    }
}
