//! All builders of a server: at most so many, one per project and level of isolation.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_sandbox::Isolation;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use toml::Table;

use crate::error::FleetError;
use crate::lease::Lease;
use crate::leftovers;
use crate::observed::{Observed, Observer};
use crate::places::Places;
use crate::process::{self, Crowd, Purpose, Running, Stop};
use crate::removal;
use crate::sizes::Sizes;
use crate::spec::{Key, ProjectSpec, Resources};

/// How long a builder whose cache is being discarded has to tell its clients.
const DISCARD_GRACE: Duration = Duration::from_secs(5);

/// How a fleet runs its builders.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// The `cofferdam` program.
    pub program: PathBuf,
    /// Directory of the server's data. The caller holds its lock: one fleet at a time uses it.
    pub data_dir: PathBuf,
    /// Configuration that every builder gets, with the keys of `cofferdam builder --config`. Where it listens, where it keeps its
    /// state, its ids and its limits are the fleet's to say.
    pub builder_config: Table,
    /// How long a builder without leases stays.
    pub idle: Duration,
    /// Most builders at once; who wants another waits.
    pub most: usize,
}

/// What starting a builder needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) program: PathBuf,
    pub(crate) places: Places,
    pub(crate) builder_config: Table,
    pub(crate) machine: Resources,
    pub(crate) idle: Duration,
    pub(crate) crowd: Crowd,
    pub(crate) observer: Arc<Observer>,
}

/// A builder's place in the fleet. Who holds the lock may start or discard the builder.
pub(crate) type Slot = Arc<tokio::sync::Mutex<Option<Arc<Running>>>>;

/// Places of builders that run or are wanted.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: Mutex<HashMap<Key, Slot>>,
    pub(crate) sizes: Sizes,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slots {
    pub(crate) fn of(&self, key: &Key) -> Slot {
        Arc::clone(lock(&self.taken).entry(key.clone()).or_default())
    }

    fn all(&self) -> Vec<Slot> {
        lock(&self.taken).values().cloned().collect()
    }

    /// The project's builder, if it runs. Waits while somebody starts or discards it.
    pub(crate) async fn running(&self, key: &Key) -> Option<Arc<Running>> {
        let slot = lock(&self.taken).get(key).cloned()?;
        let running = slot.lock().await.clone();
        running.filter(|running| !running.has_ended())
    }

    /// Lets go of a builder when it has ended: a server sees many projects, and holds descriptors of those only that build.
    async fn follow(self: Arc<Self>, running: Arc<Running>) {
        running.ended().await;
        let key = running.spec().key();
        let slot = self.of(&key);
        let mut known = slot.lock().await;
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &running)) {
            *known = None;
        }
        drop(known);
        drop(slot);
        self.forget(&key);
        let used = running.was_used();
        drop(running);
        if used {
            self.sizes.used(&key);
            // Nobody changes what it left until the next one starts.
            if let Err(error) = self.sizes.measure(&key).await {
                tracing::debug!(project = key.0, %error, "a cache was not measured");
            }
        }
    }

    /// Removes a place when nobody uses it.
    pub(crate) fn forget(&self, key: &Key) {
        let mut taken = lock(&self.taken);
        let unused = |slot: &Slot| {
            // Others come by their copy only through this map, which is locked.
            Arc::strong_count(slot) == 1 && slot.try_lock().is_ok_and(|known| known.is_none())
        };
        if taken.get(key).is_some_and(unused) {
            taken.remove(key);
        }
    }
}

/// The builders of a server.
#[derive(Debug)]
pub struct Fleet {
    pub(crate) shared: Arc<Shared>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) room: Arc<Semaphore>,
    closing: AtomicBool,
    /// Held while the trash is emptied: one at a time is enough for the disk.
    emptying: Arc<Mutex<()>>,
}

impl Fleet {
    /// Prepares the directories, ends and sweeps what an earlier process left, and starts nothing. The deletion of what was
    /// discarded goes on in the background.
    ///
    /// # Errors
    /// For anybody but root, and when the directories cannot be made.
    pub async fn new(options: FleetOptions) -> Result<Arc<Self>, FleetError> {
        if !rustix::process::geteuid().is_root() {
            return Err(FleetError::NotRoot);
        }
        let places = Places::create(&options.data_dir)?;
        leftovers::sweep(&places).await;
        let shared = Shared {
            program: options.program,
            places,
            builder_config: options.builder_config,
            machine: Resources::of_this_machine(),
            idle: options.idle,
            crowd: Crowd::default(),
            observer: Arc::default(),
        };
        let slots = Slots { taken: Mutex::default(), sizes: Sizes::new(shared.places.clone()) };
        let fleet = Arc::new(Self {
            shared: Arc::new(shared),
            slots: Arc::new(slots),
            room: Arc::new(Semaphore::new(options.most.clamp(1, Semaphore::MAX_PERMITS))),
            closing: AtomicBool::new(false),
            emptying: Arc::default(),
        });
        fleet.empty_trash();
        Ok(fleet)
    }

    /// A lease on the project's builder, which is started when it does not run; who comes meanwhile shares it. When there are as
    /// many builders as there may be, one without leases ends for it, or this waits.
    ///
    /// A builder that runs with another specification is replaced if no build holds a lease on it, else used as it is.
    ///
    /// # Errors
    /// The builder cannot be started.
    pub async fn lease(&self, spec: &ProjectSpec) -> Result<Lease, FleetError> {
        self.shared.places.project(&spec.project, spec.isolation)?;
        let mut permit = None;
        let mut queued = Duration::ZERO;
        loop {
            let slot = self.slots.of(&spec.key()).lock_owned().await;
            // With the lock, so that whoever shuts down sees what is started here.
            self.check_open()?;
            if let Some(running) = slot.as_ref() {
                if running.spec() != spec {
                    running.retire("its settings have changed");
                }
                if running.hold(Purpose::Build) {
                    self.slots.sizes.used(&spec.key());
                    let lease = Lease::new(Arc::clone(running), Purpose::Build);
                    return Ok(lease.queued(queued));
                }
                // It is on its way out; its successor needs its place.
                running.ended().await;
            }
            match permit.take() {
                Some(permit) => {
                    let lease = self.start(slot, spec.clone(), permit, Purpose::Build).await?;
                    self.slots.sizes.used(&spec.key());
                    return Ok(lease.queued(queued));
                }
                None => {
                    // Others may discard or share the builder while this one waits for room.
                    drop(slot);
                    let begun = Instant::now();
                    permit = Some(self.room().await?);
                    queued += begun.elapsed();
                }
            }
        }
    }

    /// Starts a builder, and finishes that even when nobody waits for it any more: half a start would be in the next one's way.
    pub(crate) async fn start(
        &self,
        mut slot: OwnedMutexGuard<Option<Arc<Running>>>,
        spec: ProjectSpec,
        permit: OwnedSemaphorePermit,
        purpose: Purpose,
    ) -> Result<Lease, FleetError> {
        let (shared, slots) = (Arc::clone(&self.shared), Arc::clone(&self.slots));
        let started = tokio::spawn(async move {
            *slot = None;
            let begun = Instant::now();
            let running = match process::start(&shared, spec, permit).await {
                Ok(running) => running,
                Err(error) => {
                    shared.observer.tell(Observed::NotStarted);
                    return Err(error);
                }
            };
            let took = begun.elapsed();
            shared.observer.tell(Observed::Started(took));
            *slot = Some(Arc::clone(&running));
            tokio::spawn(slots.follow(Arc::clone(&running)));
            running.hold(purpose);
            Ok(Lease::new(running, purpose).started(took))
        });
        started.await.map_err(|error| FleetError::Start(error.to_string()))?
    }

    /// A place for one more builder.
    async fn room(&self) -> Result<OwnedSemaphorePermit, FleetError> {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            self.shared.observer.tell(Observed::Room(Duration::ZERO));
            return Ok(permit);
        }
        let begun = Instant::now();
        let _waiting = Waiting::join(&self.shared.crowd);
        for running in self.running() {
            if running.retire("it made room for another project's") {
                break;
            }
        }
        let permit = Arc::clone(&self.room).acquire_owned().await;
        self.shared.observer.tell(Observed::Room(begun.elapsed()));
        permit.map_err(|_| FleetError::ShuttingDown)
    }

    /// From now on `observer` is told what happens to builders. Only the first one is.
    pub fn observe(&self, observer: impl Fn(Observed) + Send + Sync + 'static) {
        self.shared.observer.set(observer);
    }

    /// How many wait for a place for their builder.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.crowd.load(Ordering::SeqCst)
    }

    /// Bytes of all caches, as they were when each was last asked for.
    #[must_use]
    pub fn known_bytes(&self) -> u64 {
        self.slots.sizes.total()
    }

    pub(crate) fn check_open(&self) -> Result<(), FleetError> {
        if self.closing.load(Ordering::SeqCst) { Err(FleetError::ShuttingDown) } else { Ok(()) }
    }

    /// Builders that run, as far as nobody is changing that at the moment.
    pub(crate) fn running(&self) -> Vec<Arc<Running>> {
        self.slots.all().iter().filter_map(|slot| slot.try_lock().ok()?.clone()).collect()
    }

    /// Number of builders that run or are on their way in or out.
    #[must_use]
    pub fn builders(&self) -> usize {
        self.running().iter().filter(|running| !running.has_ended()).count()
    }

    /// Ends the project's builders at once and puts their caches away. What is left of them is deleted in the background.
    ///
    /// Clients of running builds lose their connection: cancel the builds first to tell them why.
    ///
    /// # Errors
    /// A cache cannot be put away; it is still there then.
    pub async fn discard(&self, project: &str) -> Result<(), FleetError> {
        for isolation in Isolation::ALL {
            self.discard_one(project, isolation).await?;
        }
        self.empty_trash();
        Ok(())
    }

    async fn discard_one(&self, project: &str, isolation: Isolation) -> Result<(), FleetError> {
        let places = self.shared.places.project(project, isolation)?;
        let key = (project.to_owned(), isolation);
        let slot = self.slots.of(&key);
        let mut known = slot.lock().await;
        if let Some(running) = known.take() {
            let reason = "the project's cache was discarded".to_owned();
            running.stop(Stop { reason, grace: DISCARD_GRACE });
            running.ended().await;
        }
        places.discard_root(self.shared.places.trash())?;
        places.remove_run();
        places.remove_home();
        self.slots.sizes.forget(&key);
        drop(known);
        drop(slot);
        self.slots.forget(&key);
        Ok(())
    }

    /// Takes no more leases and ends all builders, those that need longer than `grace` at once.
    pub async fn shutdown(&self, grace: Duration) {
        self.closing.store(true, Ordering::SeqCst);
        self.room.close();
        self.slots.sizes.stop();
        let ends = self.slots.all().into_iter().map(|slot| async move {
            // A builder that is just being started is waited for.
            let running = slot.lock().await.take();
            if let Some(running) = running {
                running.stop(Stop { reason: "the server is shutting down".to_owned(), grace });
                running.ended().await;
            }
        });
        futures::future::join_all(ends).await;
    }

    fn empty_trash(&self) {
        let trash = self.shared.places.trash().to_owned();
        let turn = Arc::clone(&self.emptying);
        tokio::task::spawn_blocking(move || {
            let _turn = lock(&turn);
            if let Err(error) = removal::empty(&trash) {
                tracing::warn!(%error, "something discarded could not be deleted");
            }
        });
    }
}

/// Counts among those who wait for room.
struct Waiting(Crowd);

impl Waiting {
    fn join(crowd: &Crowd) -> Self {
        crowd.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(crowd))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
