//! A fleet in a directory of its own, and doors through which the command line reaches one build of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cofferdam_fleet::{Fleet, FleetOptions, Isolation, Lease, ProjectSpec, Resources, Watch};
use cofferdam_tests::{Build, Context, leftovers, need_root, program};
use cofferdam_wire::cofferdam::builder::v1::__buffa::oneof::watch_build_response::Event;
use futures::StreamExt;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// A fleet.
pub(crate) struct Yard {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) dir: Arc<TempDir>,
}

/// Options that tests change.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) config: String,
    pub(crate) idle: Duration,
    pub(crate) most: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { config: String::new(), idle: Duration::from_secs(60), most: 100 }
    }
}

impl Yard {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        need_root();
        Self::open(Arc::new(tempfile::tempdir().unwrap()), settings).await
    }

    pub(crate) async fn open(dir: Arc<TempDir>, settings: Settings) -> Self {
        let fleet = Fleet::new(options(dir.path().join("data"), settings)).await.unwrap();
        Self { fleet, dir }
    }

    /// The directory of a project.
    pub(crate) fn home(&self, project: &str) -> PathBuf {
        self.dir.path().join("data/projects").join(project)
    }

    pub(crate) async fn lease(&self, spec: &ProjectSpec) -> Lease {
        self.fleet.lease(spec).await.unwrap()
    }

    /// Ends all builders and looks for what they left.
    pub(crate) async fn close(self) {
        self.fleet.shutdown(Duration::from_secs(20)).await;
        let data = self.dir.path().join("data");
        let mounts = leftovers::mounts(&data);
        assert!(mounts.is_empty(), "mounts left: {mounts:?}");
        let running = self.fleet.builders();
        assert_eq!(running, 0);
    }
}

pub(crate) fn options(data_dir: PathBuf, settings: Settings) -> FleetOptions {
    // The registries of tests are on this machine.
    let vouched = "[egress]\nvouched = [\"127.0.0.1\"]\n";
    let vouched = if settings.config.contains("[egress]") { "" } else { vouched };
    FleetOptions {
        program: program(),
        data_dir,
        builder_config: format!("{}\n{vouched}", settings.config).parse().unwrap(),
        idle: settings.idle,
        most: settings.most,
    }
}

/// A small project in slot `slot`, named after it.
pub(crate) fn project(slot: u32) -> ProjectSpec {
    ProjectSpec {
        project: format!("p{slot}"),
        slot,
        isolation: Isolation::Namespaces,
        network: None,
        limits: None,
        resources: Resources { cpus: 1, memory: 1 << 30 },
        keep_gb: 0,
        keep_days: 0,
    }
}

/// A socket behind which is one build.
pub(crate) struct Door {
    address: String,
    task: JoinHandle<()>,
    _dir: TempDir,
}

impl Door {
    pub(crate) fn open(lease: &Arc<Lease>, build: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("door");
        let listener = UnixListener::bind(&path).unwrap();
        let (lease, build) = (Arc::clone(lease), build.to_owned());
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (lease, build) = (Arc::clone(&lease), build.clone());
                tokio::spawn(async move {
                    if let Ok(mut far) = lease.connect(&build).await {
                        drop(lease);
                        tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
                    }
                });
            }
        });
        Self { address: format!("unix://{}", path.display()), task, _dir: dir }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The command line's build of `context` through this door.
    pub(crate) fn build(&self, context: &Context) -> Build {
        Build::new(Some(&self.address), context.path().to_str().unwrap())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The end of a solve: its reference, its error, whether it was cancelled.
pub(crate) type End = (String, Option<String>, bool);

/// What a watcher has seen so far.
#[derive(Clone, Default)]
pub(crate) struct Seen(Arc<Mutex<Vec<Event>>>);

impl Seen {
    /// Collects in the background; the task ends with the stream, with the error that ended it if there was one.
    pub(crate) fn collect(mut watch: Watch) -> (Self, JoinHandle<Option<String>>) {
        let seen = Self::default();
        let into = seen.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = watch.next().await {
                match message {
                    Ok(message) => into.0.lock().unwrap().extend(message.event),
                    Err(error) => return Some(error.to_string()),
                }
            }
            None
        });
        (seen, task)
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Everything that steps wrote.
    pub(crate) fn logs(&self) -> String {
        let mut text = String::new();
        for event in self.events() {
            if let Event::Status(status) = event {
                for log in &status.logs {
                    text.push_str(&String::from_utf8_lossy(&log.msg));
                }
            }
        }
        text
    }

    /// Names of vertices that have completed, each once.
    pub(crate) fn completed(&self) -> Vec<String> {
        let mut names = Vec::new();
        for event in self.events() {
            if let Event::Status(status) = event {
                for vertex in &status.vertexes {
                    if vertex.completed.is_set() && !names.contains(&vertex.name) {
                        names.push(vertex.name.clone());
                    }
                }
            }
        }
        names
    }

    /// References of solves that started, and those that ended with what they ended with.
    pub(crate) fn solves(&self) -> (Vec<String>, Vec<End>) {
        let (mut started, mut ended) = (Vec::new(), Vec::new());
        for event in self.events() {
            match event {
                Event::SolveStarted(solve) => started.push(solve.r#ref.clone()),
                Event::SolveEnded(solve) => {
                    ended.push((solve.r#ref.clone(), solve.error.clone(), solve.canceled));
                }
                _ => {}
            }
        }
        (started, ended)
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        eventually(|| condition(self)).await;
    }
}

/// Waits up to a minute until `condition` holds.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it does not come to that");
}

/// Checks that none of these processes is left, but for the moment in which the kernel takes the last of one away.
pub(crate) async fn assert_gone(processes: &BTreeMap<i32, String>) {
    for _ in 0..50 {
        if leftovers::survivors(processes).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("left: {:?}", leftovers::survivors(processes));
}

/// Runs what blocks, such as the command line, without holding up the fleet.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}
