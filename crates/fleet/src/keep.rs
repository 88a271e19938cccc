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
use crate::process::Purpose;
use crate::sizes::Size;
use crate::spec::{Key, ProjectSpec};

/// How long a builder may take to say how large its root is before what was known before has to do.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a builder that nobody needs may take to make room.
const ROOM: Duration = Duration::from_secs(30);
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
    /// Builds need all places for builders.
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
    /// What the project's roots take of the disk now. Those that no builder runs on are looked through, which may take a while.
    ///
    /// # Errors
    /// One of them cannot be looked through.
    pub async fn measure(&self, project: &str) -> Result<Vec<Root>, FleetError> {
        let mut roots = Vec::new();
        for isolation in Isolation::ALL {
            let key = (project.to_owned(), isolation);
            let Some(used_at) = self.slots.sizes.places(&key)?.used_at() else { continue };
            let told = self.told(&key).await;
            let running = self.slots.running(&key).await.is_some();
            let size = match told {
                Some(size) => Some(size),
                None => self.slots.sizes.measure(&key).await?,
            };
            let Some(Size { bytes, at }) = size else { continue };
            let used_at = if running { at } else { used_at };
            roots.push(Root { isolation, bytes, used_at, running });
        }
        Ok(roots)
    }

    /// What the project's roots take of the disk together: what builders say that run, and what was found last of the others.
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
            let told = tokio::time::timeout(ANSWER, self.told(&key)).await;
            let known = told.ok().flatten().or_else(|| self.slots.sizes.get(&key));
            let Some(size) = known else { return Ok(None) };
            total = Some(total.map_or(size, |total| total.with(size)));
        }
        Ok(Some(total.unwrap_or_else(|| Size::now(0))))
    }

    /// What a builder that runs says about its root. One in a virtual machine knows only what is in its disk; what the disk takes
    /// is seen from here, in a file.
    async fn told(&self, key: &Key) -> Option<Size> {
        let running = self.slots.running(key).await?;
        if key.1 == Isolation::Vm {
            return self.slots.sizes.measure(key).await.ok().flatten();
        }
        let size = Size::now(running.usage().await.ok()?);
        self.slots.sizes.set(key, size);
        Some(size)
    }

    /// Makes a cache smaller: what was used longest ago goes first, and nothing that a build uses. Starts the builder when it does
    /// not run, and ends it afterwards. For a cache that is not there nothing is started.
    ///
    /// # Errors
    /// The builder cannot be started, or ended meanwhile: a build may have needed its place.
    pub async fn collect(&self, spec: &ProjectSpec, keep: Keep) -> Result<Collected, FleetError> {
        match self.way(spec).await? {
            Way::Nothing => Ok(Collected::Done { freed: 0 }),
            Way::Busy => Ok(Collected::Busy),
            Way::Running(lease) => {
                let freed = self.ask(&lease, spec, keep).await?;
                Ok(Collected::Done { freed })
            }
            Way::Started(lease, used_at) => {
                let freed = self.ask(&lease, spec, keep).await;
                self.leave(lease, spec, used_at).await;
                Ok(Collected::Done { freed: freed? })
            }
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
        tokio::time::timeout(ROOM, permit).await.ok()?.ok()
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
        let outside = self.slots.sizes.measure(key).await?.map_or(0, |size| size.bytes);
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
        if let Ok(places) = self.slots.sizes.places(&key) {
            places.set_used(used_at);
        }
        if let Err(error) = self.slots.sizes.measure(&key).await {
            tracing::debug!(project = key.0, %error, "a cache was not measured");
        }
    }
}
