//! Containers of one build: `NewContainer`, `ReleaseContainer` and a look at their files.
//!
//! A container belongs to the build whose client or frontend made it and ends with it at the latest. Its mounts are results of that
//! build alone. What it asks for beyond the ordinary must have been granted to the build. Fact sheet 6.4. Those that frontends run in
//! count like those that were asked for: a build must never have more sandboxes outside of its graph than is said here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cofferdam_digest::Digest;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::pb;
use connectrpc::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bridge::Bridge;
use crate::failure::Failure;
use crate::op::container::{Blueprint, Container, Launch, Started};
use crate::snapshot::Snapshot;

/// Containers of one build at a time, frontends among them. Each is a sandbox, which steps have to share the machine with.
const MAX_CONTAINERS: usize = 32;
/// Requests to frontends in one build, whoever makes them; each is remembered for the provenance.
const MAX_FRONTENDS: usize = 1_000;
/// Mounts of one container: as many as an operation's sandbox takes.
const MAX_MOUNTS: usize = 200;
/// Longest name a client may give; clients use 25 characters.
const MAX_ID: usize = 256;

/// A container, or that one is being made under this name.
enum Entry {
    Making,
    Ready(Arc<Held>),
}

/// A container and what it was made with.
pub(crate) struct Held {
    container: Arc<Container>,
    host_network: bool,
    /// Free again when the container is gone.
    _place: Place,
}

/// Room for one container, until this is dropped.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// The containers of a build.
pub(crate) struct Containers {
    named: Mutex<HashMap<String, Entry>>,
    room: Arc<Semaphore>,
    frontends: AtomicUsize,
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            named: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_CONTAINERS)),
            frontends: AtomicUsize::new(0),
        }
    }
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more container.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        match Arc::clone(&self.room).try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(_) => {
                let message = format!("the build has {MAX_CONTAINERS} containers already");
                Err(Failure::new(ErrorCode::ResourceExhausted, message))
            }
        }
    }

    /// Counts one more request to a frontend.
    pub(super) fn frontend(&self) -> Result<(), Failure> {
        if self.frontends.fetch_add(1, Ordering::Relaxed) < MAX_FRONTENDS {
            return Ok(());
        }
        let message = format!("more than {MAX_FRONTENDS} requests to frontends in one build");
        Err(Failure::new(ErrorCode::ResourceExhausted, message))
    }

    fn reserve(&self, id: &str) -> Result<Place, Failure> {
        if id.is_empty() || id.len() > MAX_ID {
            return Err(Failure::invalid("invalid container id"));
        }
        let mut containers = self.lock();
        if containers.contains_key(id) {
            let message = format!("Container {id} already exists");
            return Err(Failure::new(ErrorCode::AlreadyExists, message));
        }
        let place = self.place()?;
        containers.insert(id.to_owned(), Entry::Making);
        Ok(place)
    }

    fn find(&self, id: &str) -> Option<Arc<Held>> {
        match self.lock().get(id) {
            Some(Entry::Ready(held)) => Some(Arc::clone(held)),
            Some(Entry::Making) | None => None,
        }
    }

    fn take(&self, id: &str) -> Option<Arc<Held>> {
        let mut containers = self.lock();
        match containers.get(id) {
            Some(Entry::Ready(_)) => match containers.remove(id) {
                Some(Entry::Ready(held)) => Some(held),
                Some(Entry::Making) | None => None,
            },
            Some(Entry::Making) | None => None,
        }
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        let left: Vec<Arc<Held>> = self
            .lock()
            .drain()
            .filter_map(|(_, entry)| match entry {
                Entry::Ready(held) => Some(held),
                Entry::Making => None,
            })
            .collect();
        if let (false, Ok(runtime)) = (left.is_empty(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                for held in left {
                    // Nobody is there to be told.
                    let _ = held.container.release().await;
                }
            });
        }
    }
}

/// Takes a name that was reserved back when making the container fails or is given up.
struct Reservation<'a> {
    containers: &'a Containers,
    id: &'a str,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut containers = self.containers.lock();
        if matches!(containers.get(self.id), Some(Entry::Making)) {
            containers.remove(self.id);
        }
    }
}

fn missing(id: &str, index: Option<i32>) -> Failure {
    match index {
        Some(index) => Failure::unknown(format!("container details for {id}@{index} not found")),
        None => Failure::unknown(format!("container details for {id} not found")),
    }
}

impl Bridge {
    /// Makes a container.
    pub(super) async fn new_container(
        &self,
        request: wire::NewContainerRequest,
    ) -> Result<(), Failure> {
        let containers = self.containers();
        let place = containers.reserve(&request.ContainerID)?;
        let reservation = Reservation { containers, id: &request.ContainerID };
        let host_network = request.Network == pb::NetMode::HOST;
        if request.Network.as_known().is_none() {
            return Err(Failure::invalid("invalid network mode"));
        }
        let (mounts, inputs) = self.container_mounts(request.Mounts).await?;
        let none = request.Network == pb::NetMode::NONE;
        let platform = request.platform.as_option();
        let blueprint = Blueprint {
            name: format!("container {}", request.ContainerID),
            mounts,
            inputs,
            network: crate::op::exec::network(&self.context, none, host_network),
            hostname: request.hostname,
            hosts: request.extraHosts,
            windows: platform.is_some_and(|platform| platform.OS == "windows"),
        };
        let name = format!("{}:container:{}", self.job.id(), request.ContainerID);
        let step = self.job.aside(Digest::of(name));
        let container = Container::new(Arc::clone(&self.context), step, blueprint).await?;
        let held = Arc::new(Held { container, host_network, _place: place });
        containers.lock().insert(request.ContainerID.clone(), Entry::Ready(held));
        drop(reservation);
        Ok(())
    }

    /// Mounts as an operation has them, and what they mount.
    async fn container_mounts(
        &self,
        wanted: Vec<pb::Mount>,
    ) -> Result<(Vec<pb::Mount>, Vec<Snapshot>), Failure> {
        if wanted.len() > MAX_MOUNTS {
            return Err(Failure::invalid(format!("more than {MAX_MOUNTS} mounts")));
        }
        let (mut mounts, mut inputs): (Vec<pb::Mount>, Vec<Snapshot>) = (Vec::new(), Vec::new());
        for mut mount in wanted {
            check_mount(&mount, &mounts)?;
            mount.input = -1;
            mount.output = -1;
            if !mount.resultID.is_empty() {
                let result = self.result(&mount.resultID).await.map_err(|failure| {
                    let (id, dest) = (&mount.resultID, &mount.dest);
                    failure.during(&format!("failed to find ref {id} for {dest:?} mount"))
                })?;
                mount.input = i64::try_from(inputs.len()).unwrap_or(-1);
                inputs.push(result);
            }
            mounts.push(mount);
        }
        if !mounts.iter().any(|mount| mount.dest == "/") {
            return Err(Failure::invalid("invalid container with no rootfs"));
        }
        Ok((mounts, inputs))
    }

    /// A result by the name of its reference, or by one that a failed step left.
    async fn result(&self, id: &str) -> Result<Snapshot, Failure> {
        if let Some(left) = self.left_behind(id) {
            return Ok(left);
        }
        match self.find(id)? {
            Some(reference) => self.evaluate(&reference).await,
            None => Err(Failure::not_found(format!("no such ref: {id}"))),
        }
    }

    /// The container that a process is to be started in.
    pub(super) fn container(&self, id: &str) -> Result<Arc<Held>, Failure> {
        self.containers().find(id).ok_or_else(|| {
            Failure::not_found(format!("container {id:?} previously released or not created"))
        })
    }

    /// Starts a process, when the build may.
    pub(super) async fn start_process(
        &self,
        held: &Held,
        launch: Launch,
        security: buffa::EnumValue<pb::SecurityMode>,
    ) -> Result<Started, Failure> {
        self.granted().check_process(held.host_network, security)?;
        let insecure = security == pb::SecurityMode::INSECURE;
        held.container.start(Launch { insecure, ..launch }).await
    }

    /// Ends a container.
    pub(super) async fn release_container(&self, id: &str) -> Result<(), Failure> {
        let held = self.containers().take(id).ok_or_else(|| missing(id, None))?;
        // Nobody else ends it when whoever asked is gone before it has ended.
        let released = tokio::spawn(async move { held.container.release().await });
        released.await.unwrap_or_else(|_| Err(Failure::canceled()))
    }

    /// The files of a container's mount.
    pub(super) fn container_files(
        &self,
        id: &str,
        index: i32,
    ) -> Result<Arc<crate::rooted::Root>, Failure> {
        let held = self.containers().find(id).ok_or_else(|| missing(id, Some(index)))?;
        // A negative one is out of any bounds.
        held.container.files(usize::try_from(index).unwrap_or(usize::MAX))
    }
}

fn check_mount(mount: &pb::Mount, earlier: &[pb::Mount]) -> Result<(), Failure> {
    let dest = &mount.dest;
    let kind = mount.mountType.as_known();
    if dest.is_empty() || kind.is_none() {
        return Err(Failure::invalid(format!("invalid mount {dest:?}")));
    }
    if dest == "/" {
        if kind != Some(pb::MountType::BIND) {
            return Err(Failure::invalid(format!("invalid mount type for {dest}")));
        }
        if earlier.iter().any(|mount| mount.dest == "/") {
            return Err(Failure::invalid("invalid container with two rootfs mounts"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn containers_and_frontends_share_the_room_of_their_build() {
        let containers = Containers::default();
        let named: Vec<Place> =
            (1..MAX_CONTAINERS).map(|id| containers.reserve(&id.to_string()).unwrap()).collect();
        let frontend = containers.place().unwrap();
        let refused = containers.reserve("more").err().unwrap();
        assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
        assert!(containers.place().is_err());
        drop(frontend);
        let again = containers.reserve("more");
        assert!(again.is_ok(), "what has ended makes room");
        assert!(containers.reserve("even more").is_err());
        drop(named);
        assert!(containers.place().is_ok());
    }

    #[test]
    fn a_name_is_taken_once() {
        let containers = Containers::default();
        let _place = containers.reserve("one").unwrap();
        assert_eq!(containers.reserve("one").err().unwrap().code(), ErrorCode::AlreadyExists);
        drop(Reservation { containers: &containers, id: "one" });
        assert!(containers.reserve("one").is_ok());
    }

    #[test]
    fn requests_to_frontends_are_counted_for_the_whole_build() {
        let containers = Containers::default();
        assert!((0..MAX_FRONTENDS).all(|_| containers.frontend().is_ok()));
        assert!(containers.frontend().is_err());
    }
}
