//! What builders' roots take of the disk, as it was found last.
//!
//! A root whose builder does not run is looked through from outside, one at a time: the disk has other things to do. What is known
//! of a root goes with it. Nothing here starts or changes anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::error::{FleetError, chain};
use crate::places::{Places, ProjectPlaces};
use crate::spec::Key;
use crate::walk::{self, Counted, Cut, FileId, WalkError};

/// What something takes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Bytes of the disk, as `du` counts them.
    pub bytes: u64,
    /// When that was so.
    pub at: SystemTime,
}

impl Size {
    pub(crate) fn now(bytes: u64) -> Self {
        Self { bytes, at: SystemTime::now() }
    }

    /// Whether it was so less than `age` ago.
    pub(crate) fn is_younger_than(self, age: Duration) -> bool {
        self.at.elapsed().is_ok_and(|since| since < age)
    }

    /// Both together, as old as the older one.
    pub(crate) fn with(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), at: self.at.min(other.at) }
    }
}

type Known = HashMap<Key, Size>;

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sizes of roots.
#[derive(Debug)]
pub(crate) struct Sizes {
    places: Places,
    known: Arc<Mutex<Known>>,
    /// Held while a tree is looked through.
    turn: Arc<tokio::sync::Mutex<()>>,
    stop: Arc<AtomicBool>,
}

impl Sizes {
    pub(crate) fn new(places: Places) -> Self {
        Self { places, known: Arc::default(), turn: Arc::default(), stop: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    /// What a root took when that was found out last.
    pub(crate) fn get(&self, key: &Key) -> Option<Size> {
        self.known().get(key).copied()
    }

    /// Notes what a builder said about its root, which was that directory when it was asked.
    pub(crate) fn set(&self, key: &Key, root: Option<FileId>, size: Size) {
        let mut known = self.known();
        // As in `find`.
        if root.is_some() && self.places(key).is_ok_and(|places| places.root_id() == root) {
            known.insert(key.clone(), size);
        }
    }

    /// Forgets a root, which is gone.
    pub(crate) fn forget(&self, key: &Key) {
        self.known().remove(key);
    }

    /// Bytes of all roots, as far as they are known.
    pub(crate) fn total(&self) -> u64 {
        self.known().values().fold(0, |total, size| total.saturating_add(size.bytes))
    }

    /// The places of a root.
    pub(crate) fn places(&self, key: &Key) -> Result<ProjectPlaces, FleetError> {
        self.places.project(&key.0, key.1)
    }

    /// Notes that a build uses a root now.
    pub(crate) fn used(&self, key: &Key) {
        if let Ok(places) = self.places(key) {
            places.set_used(SystemTime::now());
        }
    }

    /// Looks through a root; gives its size, or nothing when there is none. What is found is noted also when nobody waits for it any
    /// more. Of a root in which there is too much it is what could be counted.
    pub(crate) async fn measure(&self, key: &Key) -> Result<Option<Size>, FleetError> {
        let places = self.places(key)?;
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (known, stop) = (Arc::clone(&self.known), Arc::clone(&self.stop));
        let (walked, key) = (places.clone(), key.clone());
        let walk = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            find(&walked, key, &known, &stop)
        });
        walk.await.map_err(|error| unmeasured(&places, &error))?
    }

    /// Breaks off what is being measured, now and from now on.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn find(
    places: &ProjectPlaces,
    key: Key,
    known: &Mutex<Known>,
    stop: &AtomicBool,
) -> Result<Option<Size>, FleetError> {
    let Some((id, size)) = look_through(places, stop)? else { return Ok(None) };
    let mut known = lock(known);
    // What was discarded meanwhile is forgotten already, or is about to be: that takes this lock.
    if places.root_id() != Some(id) {
        return Ok(None);
    }
    known.insert(key, size);
    Ok(Some(size))
}

fn look_through(
    places: &ProjectPlaces,
    stop: &AtomicBool,
) -> Result<Option<(FileId, Size)>, FleetError> {
    let failed = |error: WalkError| unmeasured(places, &error);
    let Some(root) = places.open_root()? else { return Ok(None) };
    let at = SystemTime::now();
    let stat = rustix::fs::fstat(&root).map_err(|errno| failed(errno.into()))?;
    let mut counted = walk::disk_bytes(&root, stop).map_err(failed)?;
    if counted.cut == Some(Cut::Changed) {
        counted = walk::disk_bytes(&root, stop).map_err(failed)?;
    }
    let Counted { bytes, cut } = counted;
    if let Some(why) = cut {
        let root = places.root();
        tracing::warn!(root = %root.display(), bytes, %why, "a cache takes more than was counted");
    }
    Ok(Some((walk::id_of(&stat), Size { bytes, at })))
}

fn unmeasured(places: &ProjectPlaces, error: &dyn std::error::Error) -> FleetError {
    FleetError::Directory { action: "measure", path: places.root(), reason: chain(error) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_sandbox::Isolation;

    use super::*;

    #[tokio::test]
    async fn what_is_gone_has_no_size() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::create(dir.path()).unwrap();
        let sizes = Sizes::new(places.clone());
        let key = ("p".to_owned(), Isolation::Namespaces);
        assert_eq!(sizes.measure(&key).await.unwrap(), None);
        let root = sizes.places(&key).unwrap().root();
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("file"), vec![1; 100_000]).unwrap();
        let size = sizes.measure(&key).await.unwrap().unwrap();
        assert!(size.bytes >= 100_000 && sizes.get(&key) == Some(size), "{size:?}");
        assert_eq!(sizes.total(), size.bytes);
        std::fs::remove_dir_all(&root).unwrap();
        sizes.forget(&key);
        assert_eq!(sizes.measure(&key).await.unwrap(), None);
        assert_eq!(sizes.get(&key), None);
        std::fs::create_dir_all(&root).unwrap();
        let id = places.project("p", Isolation::Namespaces).unwrap().root_id();
        sizes.set(&key, None, Size::now(1));
        assert_eq!(sizes.get(&key), None, "its builder was asked before there was a root");
        sizes.set(&key, id, Size::now(2));
        assert_eq!(sizes.get(&key).map(|size| size.bytes), Some(2));
        sizes.stop();
        assert!(sizes.measure(&key).await.unwrap_err().to_string().contains("stopping"));
    }
}
