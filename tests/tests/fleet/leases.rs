//! The life of builders: started once, shared, ended when idle, replaced when dead.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_fleet::{Fleet, FleetError, ProjectSpec, Resources};
use cofferdam_tests::{Context, Process, leftovers};
use rustix::process::{Pid, Signal, kill_process};

use super::yard::{Door, Settings, Yard, assert_gone, blocking, eventually, options, project};

/// The processes of a builder: its supervisor and everything below.
fn processes(supervisor: u32) -> std::collections::BTreeMap<i32, String> {
    leftovers::tree(supervisor.try_into().unwrap())
}

fn groups(supervisor: u32) -> Vec<PathBuf> {
    leftovers::groups(supervisor.try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_is_started_once_and_shared() {
    let yard = Yard::new().await;
    let spec = project(1);
    let leases = futures::future::join_all((0..8).map(|_| yard.lease(&spec))).await;
    let supervisor = leases[0].supervisor();
    assert!(leases.iter().all(|lease| lease.supervisor() == supervisor));
    assert_eq!(yard.fleet.builders(), 1);
    let other = yard.lease(&project(2)).await;
    assert_ne!(other.supervisor(), supervisor);
    assert_eq!(yard.fleet.builders(), 2);
    let lease = Arc::new(yard.lease(&spec).await);
    drop(leases);
    let door = Door::open(&lease, "b1");
    let context = Context::dockerfile("FROM @busybox\nRUN echo hello > /h\n");
    assert_eq!(blocking(|| door.build(&context).image().text("h")), "hello\n");
    assert!(lease.usage().await.unwrap() > 0);
    assert!(yard.fleet.cache_size("p1").await.unwrap().unwrap().bytes > 0);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_builder_ends_and_its_cache_stays() {
    let yard =
        Yard::with(Settings { idle: Duration::from_millis(700), ..Settings::default() }).await;
    let spec = project(3);
    let lease = Arc::new(yard.lease(&spec).await);
    let context = Context::dockerfile("FROM @busybox\nRUN head -c 16 /dev/urandom | md5sum > /r\n");
    let door = Door::open(&lease, "b1");
    let first = blocking(|| door.build(&context).image().text("r"));
    // As long as a lease is held it stays, however idle.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(yard.fleet.builders(), 1);
    let (supervisor, ended) = (lease.supervisor(), lease.ended());
    let tree = processes(supervisor);
    assert!(tree.len() > 3, "{tree:?}");
    drop(door);
    drop(lease);
    let why = tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert!(why.contains("nothing was built"), "{why}");
    assert_gone(&tree).await;
    assert_eq!(groups(supervisor), Vec::<PathBuf>::new());
    assert!(!yard.home("p3").join("run").exists());
    let lease = Arc::new(yard.lease(&spec).await);
    assert_ne!(lease.supervisor(), supervisor);
    let door = Door::open(&lease, "b2");
    let again = blocking(|| door.build(&context).image().text("r"));
    assert_eq!(again, first, "the cache is the project's, not the process's");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_builder_is_reported_and_replaced() {
    let yard = Yard::new().await;
    let spec = project(4);
    let lease = yard.lease(&spec).await;
    let tree = processes(lease.supervisor());
    let groups_before = groups(lease.supervisor());
    assert!(!groups_before.is_empty(), "control: it has control groups");
    let ended = lease.ended();
    let mut watch = lease.watch("b1").await.unwrap();
    let supervisor = Pid::from_raw(lease.supervisor().try_into().unwrap()).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    let why = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
    assert!(why.contains("signal 9"), "{why}");
    assert_gone(&tree).await;
    assert_eq!(groups(lease.supervisor()), Vec::<PathBuf>::new());
    let last = futures::StreamExt::next(&mut watch).await;
    assert!(last.is_some_and(|last| last.is_err()), "a watcher learns that the rest is lost");
    let error = lease.connect("b1").await.unwrap_err();
    assert!(matches!(error, FleetError::Ended(_)), "{error}");
    let next = yard.lease(&spec).await;
    assert!(next.usage().await.is_ok());
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_builders_own_process_dying_is_the_end_too() {
    let yard = Yard::new().await;
    let spec = project(5);
    let lease = yard.lease(&spec).await;
    let tree = processes(lease.supervisor());
    // Below the supervisor: the gate, and the enclosure's init with everything in it.
    let marked = leftovers::marked("__builder");
    let builder = marked.iter().find(|(pid, owner)| tree.contains_key(pid) && *owner != 0).unwrap();
    kill_process(Pid::from_raw(builder.0).unwrap(), Signal::KILL).unwrap();
    let why = tokio::time::timeout(Duration::from_secs(15), lease.ended()).await.unwrap();
    assert!(why.contains("ended with code"), "{why}");
    assert_gone(&tree).await;
    assert!(yard.lease(&spec).await.usage().await.is_ok());
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builders_make_room_for_each_other() {
    let yard = Yard::with(Settings { most: 1, ..Settings::default() }).await;
    let first = yard.lease(&project(6)).await;
    let ended = first.ended();
    let fleet = Arc::clone(&yard.fleet);
    let second = tokio::spawn(async move { fleet.lease(&project(7)).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!second.is_finished(), "the first is in use");
    drop(first);
    let second = tokio::time::timeout(Duration::from_secs(20), second).await.unwrap().unwrap();
    assert!(ended.await.contains("made room"));
    drop(second);
    // An idle one gives way at once.
    let begun = Instant::now();
    let third = yard.lease(&project(6)).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(third.project(), "p6");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_the_whole_builder_and_are_clamped_to_the_machine() {
    let yard = Yard::new().await;
    let spec =
        ProjectSpec { resources: Resources { cpus: 100_000, memory: 300 << 20 }, ..project(8) };
    let lease = Arc::new(yard.lease(&spec).await);
    let clamped = lease.clamped().unwrap();
    assert_eq!(clamped.asked.cpus, 100_000);
    let here = std::thread::available_parallelism().unwrap().get();
    assert_eq!(clamped.given.cpus as usize, here);
    assert_eq!(clamped.given.memory, 300 << 20, "what the machine has is given");
    let groups = groups(lease.supervisor());
    let control = |name: &str| {
        let files = groups.iter().map(|group| group.join(name));
        files
            .filter_map(|file| fs::read_to_string(file).ok())
            .next()
            .map(|text| text.trim().to_owned())
    };
    let memory = control("memory.limit_in_bytes").or_else(|| control("memory.max")).unwrap();
    assert_eq!(memory, (300_u64 << 20).to_string());
    let quota = control("cpu.cfs_quota_us")
        .or_else(|| Some(control("cpu.max")?.split(' ').next()?.to_owned()));
    assert_eq!(quota.unwrap(), (here * 100_000).to_string());
    assert_eq!(control("pids.max").unwrap(), "32768");
    // What a step takes counts, though the step itself has no limit.
    let door = Door::open(&lease, "b1");
    let greedy = Context::dockerfile(
        "FROM @busybox\nRUN head -c 2000000000 /dev/zero | tail -c 1000000000 > /dev/null\n",
    );
    let error = blocking(|| door.build(&greedy).run().failure());
    assert!(error.contains("did not complete"), "{error}");
    let modest = Context::dockerfile("FROM @busybox\nRUN echo fine > /f\n");
    assert_eq!(blocking(|| door.build(&modest).image().text("f")), "fine\n");
    // Other settings replace a builder that nobody uses.
    drop(door);
    let supervisor = lease.supervisor();
    let same = yard.lease(&project(8)).await;
    assert_eq!(same.supervisor(), supervisor, "in use: as it is");
    drop((lease, same));
    eventually_unshared().await;
    let other = yard.lease(&project(8)).await;
    assert_ne!(other.supervisor(), supervisor);
    assert_eq!(other.clamped(), None);
    yard.close().await;
}

/// Connections of a closed door let go of their lease a moment later.
async fn eventually_unshared() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_builder_that_cannot_start_says_why() {
    let config = "[egress]\nallow = [\"not a rule!\"]\n".to_owned();
    let yard = Yard::with(Settings { config, ..Settings::default() }).await;
    let error = yard.fleet.lease(&project(9)).await.unwrap_err().to_string();
    assert!(error.contains("could not be started") && error.contains("not a rule"), "{error}");
    assert!(!yard.home("p9").join("run").exists());
    for bad in ["", "../p9", "A"] {
        let spec = ProjectSpec { project: bad.to_owned(), ..project(9) };
        assert!(matches!(yard.fleet.lease(&spec).await, Err(FleetError::Project(_))), "{bad}");
    }
    let far = ProjectSpec { slot: 10_000, ..project(9) };
    assert!(matches!(yard.fleet.lease(&far).await, Err(FleetError::Slot(10_000))));
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_ends_all_and_refuses_more() {
    let yard = Yard::new().await;
    let leases = [yard.lease(&project(10)).await, yard.lease(&project(11)).await];
    let trees = leases.each_ref().map(|lease| processes(lease.supervisor()));
    let ended = leases[0].ended();
    yard.fleet.shutdown(Duration::from_secs(20)).await;
    assert!(ended.await.contains("shutting down"));
    for tree in &trees {
        assert_gone(tree).await;
    }
    let refused = yard.fleet.lease(&project(10)).await;
    assert!(matches!(refused, Err(FleetError::ShuttingDown)));
    yard.close().await;
}

const KILLED: &str = "COFFERDAM_TEST_FLEET";

/// Not a test by itself: the process that [`nothing_survives_a_server_that_is_killed`] kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by another test"]
async fn a_server_to_be_killed() {
    let Some(data) = std::env::var_os(KILLED).map(PathBuf::from) else { return };
    let fleet = Fleet::new(options(data.clone(), Settings::default())).await.unwrap();
    let lease = fleet.lease(&project(12)).await.unwrap();
    fs::write(data.join("supervisor"), lease.supervisor().to_string()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_survives_a_server_that_is_killed() {
    cofferdam_tests::need_root();
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let data = dir.path().join("data");
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "leases::a_server_to_be_killed"]).env(KILLED, &data);
    command.stdout(std::process::Stdio::null());
    let server = Process::start(command);
    let file = data.join("supervisor");
    eventually(|| fs::read_to_string(&file).is_ok_and(|text| !text.is_empty())).await;
    let supervisor: u32 = fs::read_to_string(&file).unwrap().parse().unwrap();
    let tree = processes(supervisor);
    assert!(tree.len() > 3, "{tree:?}");
    server.kill();
    // The next server comes at once, and finds a clean place.
    let yard = Yard::open(dir, Settings::default()).await;
    assert_gone(&tree).await;
    assert_eq!(groups(supervisor), Vec::<PathBuf>::new());
    assert!(!yard.home("p12").join("run").exists());
    assert!(yard.home("p12").join("builder").exists(), "the cache is kept");
    let lease = yard.lease(&project(12)).await;
    assert!(lease.usage().await.is_ok());
    yard.close().await;
}

#[test]
fn an_ordinary_user_is_told_why_it_cannot_be() {
    cofferdam_tests::need_root();
    let data = std::env::temp_dir().join("never-made");
    // Made before: nobody may not be able to see the program in root's home.
    let options = options(data.clone(), Settings::default());
    // Ids are per thread: this one becomes nobody for a moment.
    std::thread::spawn(move || {
        use rustix::thread::{Uid, set_thread_res_uid};
        set_thread_res_uid(Uid::from_raw(65_534), Uid::from_raw(65_534), Uid::ROOT).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let error = runtime.block_on(Fleet::new(options));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("id ranges") && error.contains("root"), "{error}");
        assert!(!data.exists());
    })
    .join()
    .unwrap();
}
