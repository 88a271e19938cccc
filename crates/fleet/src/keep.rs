//! Keeping caches within bounds, also those of projects that build nothing, and telling what they take of the disk.
//!
//! Builds come first: a builder that is started only for this ends when a build needs its place, and what a build uses is never
//! removed. Which cache is to be made smaller, and by how much, is for the caller to say.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cofferdam_sandbox::Isolation;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::FleetError;
use crate::fleet::Fleet;
use crate::lease::Lease;
use crate::process::{Purpose, Running};
use crate::sizes::Size;
use crate::spec::{Key, ProjectSpec};

/// How long a builder may take to say how large its root is before what was known before has to do.
const ANSWER: Duration = Duration::from_secs(5);
/// What was found so long ago, at most, is not asked for again: nobody can keep builders busy by asking.
const FRESH: Duration = Duration::from_secs(60);
/// How long a builder that nobody needs may take to make room, and how long others' turns to be looked through may take.
const ROOM: Duration = Duration::from_secs(30);
/// Why a builder ends that was started for its cache only.
const NEEDED: &str = "a build needs its place";
/// Most of a bound that a virtual machine's disk may have for itself, as a divisor.
const OWN_SHARE: u64 = 4;

/// Where a builder keeps everything: its project has one for each level of isolation that it has built at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The level.
    pub isolation: Isolation,
    /// Bytes of the disk, as `du` counts them.
    pub bytes: u64,
    /// When a build used it last; now, while its builder runs.
    pub used_at: SystemTime,
    /// Whether its builder runs.
    pub running: bool,
}

/// What is to be kept of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keep {
    /// Bytes of disk that the root may take; nothing sets no bound.
    pub max_bytes: Option<u64>,
    /// How long what is not used stays; nothing sets no bound.
    pub unused_for: Option<Duration>,
}

/// What came of making a cache smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collected {
    /// What could go is gone.
    Done {
        /// Bytes that became free.
        freed: u64,
    },
    /// Builds need all places for builders, also the one that this had.
    Busy,
}

/// How a cache can be reached.
enum Way {
    /// There is none.
    Nothing,
    /// There is no place for its builder.
    Busy,
    /// Its builder runs anyway.
    Running(Lease),
    /// Its builder was started for this; with the time its root was used before.
    Started(Lease, SystemTime),
}

impl Fleet {
    /// What the project's roots take of the disk now. Those that no builder runs on are looked through, which may take a while. Of
    /// one whose builder does not answer it is what was found last: what runs may change it all the time.
    ///
    /// # Errors
    /// One of them cannot be looked through.
    pub async fn measure(&self, project: &str) -> Result<Vec<Root>, FleetError> {
        let mut roots = Vec::new();
        for isolation in Isolation::ALL {
            let key = (project.to_owned(), isolation);
            let Some(used_at) = self.slots.sizes.places(&key)?.used_at() else { continue };
            let running = self.slots.running(&key).await;
            let size = match &running {
                Some(running) => {
                    let asked = self.asked(&key, running).await;
                    asked.or_else(|| self.slots.sizes.get(&key))
                }
                None => self.slots.sizes.measure(&key).await?,
            };
            let Some(Size { bytes, at }) = size else { continue };
            let running = running.is_some();
            let used_at = if running { at } else { used_at };
            roots.push(Root { isolation, bytes, used_at, running });
        }
        Ok(roots)
    }

    /// What the project's roots take of the disk together: what builders say that run, unless it is known what that was a moment
    /// ago, and what was found last of the others.
    /// Nothing when one of them is not known; [`Self::measure`] finds out.
    ///
    /// # Errors
    /// The id cannot be a project's.
    pub async fn cache_size(&self, project: &str) -> Result<Option<Size>, FleetError> {
        let mut total: Option<Size> = None;
        for isolation in Isolation::ALL {
            let key = (project.to_owned(), isolation);
            if self.slots.sizes.places(&key)?.used_at().is_none() {
                continue;
            }
            let known = match self.slots.sizes.get(&key) {
                Some(size) if size.is_younger_than(FRESH) => Some(size),
                _ => {
                    let told = tokio::time::timeout(ANSWER, self.told(&key)).await;
                    told.ok().flatten().or_else(|| self.slots.sizes.get(&key))
                }
            };
            let Some(size) = known else { return Ok(None) };
            total = Some(total.map_or(size, |total| total.with(size)));
        }
        Ok(Some(total.unwrap_or_else(|| Size::now(0))))
    }

    async fn told(&self, key: &Key) -> Option<Size> {
        let running = self.slots.running(key).await?;
        self.asked(key, &running).await
    }

    /// What a builder that runs says about its root. One in a virtual machine knows only what is in its disk; what the disk takes
    /// is seen from here, in a file.
    async fn asked(&self, key: &Key, running: &Running) -> Option<Size> {
        if key.1 == Isolation::Vm {
            return self.slots.sizes.measure(key).await.ok().flatten();
        }
        let root = self.slots.sizes.places(key).ok()?.root_id();
        let size = Size::now(running.usage().await.ok()?);
        self.slots.sizes.set(key, root, size);
        Some(size)
    }

    /// Makes a cache smaller: what was used longest ago goes first, and nothing that a build uses. Starts the builder when it does
    /// not run, and ends it afterwards. For a cache that is not there nothing is started.
    ///
    /// # Errors
    /// The builder cannot be started, or ended by itself meanwhile.
    pub async fn collect(&self, spec: &ProjectSpec, keep: Keep) -> Result<Collected, FleetError> {
        match self.way(spec).await? {
            Way::Nothing => Ok(Collected::Done { freed: 0 }),
            Way::Busy => Ok(Collected::Busy),
            Way::Running(lease) => {
                let freed = self.ask(&lease, spec, keep).await;
                self.collected(&lease, freed)
            }
            Way::Started(lease, used_at) => {
                // A build that came while this builder started did not see it and waits.
                let collected = if self.waiting() > 0 && lease.running().retire(NEEDED) {
                    Ok(Collected::Busy)
                } else {
                    let freed = self.ask(&lease, spec, keep).await;
                    self.collected(&lease, freed)
                };
                self.leave(lease, spec, used_at).await;
                collected
            }
        }
    }

    /// What came of asking. A builder that was told to end had to make room.
    fn collected(
        &self,
        lease: &Lease,
        freed: Result<u64, FleetError>,
    ) -> Result<Collected, FleetError> {
        match freed {
            Ok(freed) => Ok(Collected::Done { freed }),
            Err(_) if lease.running().was_told() && self.check_open().is_ok() => {
                Ok(Collected::Busy)
            }
            Err(error) => Err(error),
        }
    }

    async fn way(&self, spec: &ProjectSpec) -> Result<Way, FleetError> {
        let key = spec.key();
        let places = self.slots.sizes.places(&key)?;
        let mut permit = None;
        loop {
            let slot = self.slots.of(&key).lock_owned().await;
            self.check_open()?;
            if let Some(running) = slot.as_ref() {
                if running.hold(Purpose::Upkeep) {
                    return Ok(Way::Running(Lease::new(Arc::clone(running), Purpose::Upkeep)));
                }
                running.ended().await;
            }
            // With the lock: who discards the cache holds it, too.
            let Some(used_at) = places.used_at() else {
                drop(slot);
                self.slots.forget(&key);
                return Ok(Way::Nothing);
            };
            if let Some(permit) = permit.take() {
                if self.waiting() > 0 {
                    drop((permit, slot));
                    self.slots.forget(&key);
                    return Ok(Way::Busy);
                }
                let lease = self.start(slot, spec.clone(), permit, Purpose::Upkeep).await?;
                return Ok(Way::Started(lease, used_at));
            }
            drop(slot);
            permit = self.spare_room().await;
            if permit.is_none() {
                self.slots.forget(&key);
                return Ok(Way::Busy);
            }
        }
    }

    /// A place for a builder that no build waits for; one that nobody needs makes room.
    async fn spare_room(&self) -> Option<OwnedSemaphorePermit> {
        if self.waiting() > 0 {
            return None;
        }
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return Some(permit);
        }
        let mut running = self.running().into_iter();
        running.find(|running| running.retire("it made room for another project's"))?;
        let permit = Arc::clone(&self.room).acquire_owned();
        let permit = tokio::time::timeout(ROOM, permit).await.ok()?.ok()?;
        // Builds may have come since.
        (self.waiting() == 0).then_some(permit)
    }

    async fn ask(&self, lease: &Lease, spec: &ProjectSpec, keep: Keep) -> Result<u64, FleetError> {
        let max_bytes = match keep.max_bytes {
            Some(most) if spec.isolation == Isolation::Vm => {
                Some(self.within_disk(lease, &spec.key(), most).await?)
            }
            bound => bound,
        };
        lease.collect(max_bytes, keep.unused_for).await
    }

    /// What may be in a virtual machine's disk if the disk is to take no more than `most`. It has blocks of its own: those of its
    /// file system, and ones that became free in it and were not given back.
    async fn within_disk(&self, lease: &Lease, key: &Key, most: u64) -> Result<u64, FleetError> {
        // Other roots may have to be looked through first.
        let measured = tokio::time::timeout(ROOM, self.slots.sizes.measure(key)).await;
        let outside = match measured {
            Ok(size) => size?,
            Err(_) => self.slots.sizes.get(key),
        };
        let outside = outside.map_or(0, |size| size.bytes);
        let own = outside.saturating_sub(lease.usage().await?);
        Ok(most - own.min(most / OWN_SHARE))
    }

    /// Ends a builder that was started for its cache, unless a build has come; its root was not used by that.
    async fn leave(&self, lease: Lease, spec: &ProjectSpec, used_at: SystemTime) {
        let running = Arc::clone(lease.running());
        drop(lease);
        running.retire("its cache was made smaller");
        if running.was_used() {
            return;
        }
        // It takes no leases any more, so this comes soon.
        running.ended().await;
        let key = spec.key();
        let slot = self.slots.of(&key);
        let known = slot.lock().await;
        // Unless a build has a builder on this root by now.
        let last = known.as_ref().is_none_or(|known| Arc::ptr_eq(known, &running));
        if last && let Ok(places) = self.slots.sizes.places(&key) {
            places.set_used(used_at);
        }
        drop(known);
        drop(slot);
        self.slots.forget(&key);
        if !last {
            return;
        }
        if let Err(error) = self.slots.sizes.measure(&key).await {
            tracing::debug!(project = key.0, %error, "a cache was not measured");
        }
    }
}
