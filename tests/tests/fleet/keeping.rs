//! Caches within bounds: measured to what `du` says, made smaller when nobody builds, left alone where somebody does.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cofferdam_fleet::{Collected, Isolation, Keep, ProjectSpec, Root};
use cofferdam_tests::Context;
use cofferdam_tests::usage::{assert_close, du};

use super::yard::{Door, Settings, Yard, blocking, eventually, project};

/// What the step of a context writes.
const DATA: u64 = 20 << 20;

/// What is left of a cache that nobody uses, at most: an empty store.
const EMPTY: u64 = DATA / 2;

fn settings() -> Settings {
    Settings { idle: Duration::from_millis(300), ..Settings::default() }
}

fn context(name: &str) -> Context {
    Context::dockerfile(&format!(
        "FROM @busybox\nRUN head -c {DATA} /dev/urandom > /data && echo {name}\n"
    ))
}

const fn at_most(bytes: u64) -> Keep {
    Keep { max_bytes: Some(bytes), unused_for: None }
}

/// Builds the contexts one after the other and waits until the builder has ended. Gives which of their steps were cached.
async fn build(yard: &Yard, spec: &ProjectSpec, contexts: &[&Context]) -> Vec<bool> {
    let lease = Arc::new(yard.lease(spec).await);
    let ended = lease.ended();
    let door = Door::open(&lease, "b");
    let mut cached = Vec::new();
    for context in contexts {
        let outcome = blocking(|| door.build(context).run()).success();
        cached.push(outcome.step("RUN head").cached);
    }
    drop((door, lease));
    ended.await;
    cached
}

/// What is known of a project's caches after its builder has ended.
async fn known(yard: &Yard, project: &str) -> u64 {
    for _ in 0..3000 {
        if let Some(size) = yard.fleet.cache_size(project).await.unwrap() {
            return size.bytes;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the cache of {project} is never measured");
}

async fn only_root(yard: &Yard, project: &str) -> Root {
    let mut roots = yard.fleet.measure(project).await.unwrap();
    assert_eq!(roots.len(), 1, "{roots:?}");
    roots.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_cache_is_measured_and_made_smaller() {
    let yard = Yard::with(settings()).await;
    let spec = project(60);
    let (old, new) = (context("old"), context("new"));
    assert_eq!(build(&yard, &spec, &[&old, &new]).await, [false, false]);
    let directory = yard.home("p60").join("builder");
    assert_close(known(&yard, "p60").await, &directory);
    let begun = SystemTime::now();
    let before = only_root(&yard, "p60").await;
    assert_eq!((before.isolation, before.running), (Isolation::Namespaces, false));
    assert!(before.bytes > 2 * DATA && before.used_at < begun, "{before:?}");
    assert_close(before.bytes, &directory);

    let most = before.bytes - DATA / 2;
    let collected = yard.fleet.collect(&spec, at_most(most)).await.unwrap();
    let enough = |freed: u64| freed >= before.bytes - most;
    assert!(matches!(collected, Collected::Done { freed } if enough(freed)), "{collected:?}");
    assert_eq!(yard.fleet.builders(), 0, "its builder ran for this only");
    assert!(du(&directory) <= most, "{} of {most}", du(&directory));
    let after = only_root(&yard, "p60").await;
    assert_close(after.bytes, &directory);
    assert_eq!(after.used_at, before.used_at, "that was no use of it");
    assert_close(known(&yard, "p60").await, &directory);
    assert_eq!(build(&yard, &spec, &[&new, &old]).await, [true, false], "the older one went");

    let all = Keep { max_bytes: None, unused_for: Some(Duration::ZERO) };
    assert!(matches!(yard.fleet.collect(&spec, all).await.unwrap(), Collected::Done { .. }));
    assert!(du(&directory) < EMPTY, "{}", du(&directory));
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_build_uses_stays() {
    let yard = Yard::new().await;
    let lease = Arc::new(yard.lease(&project(61)).await);
    let earlier = Door::open(&lease, "a");
    let unused = context("unused");
    let _ = blocking(|| earlier.build(&unused).run()).success();
    lease.close("a").await.unwrap();
    let door = Door::open(&lease, "b");
    let used = Context::dockerfile(&format!(
        "FROM @busybox\nRUN head -c {DATA} /dev/urandom > /data && md5sum /data > /sum\n\
         RUN echo ready; sleep 8; md5sum -c /sum\n"
    ));
    let running = door.build(&used).spawn();
    blocking(|| running.wait_for("ready"));
    let collected = yard.fleet.collect(&project(61), at_most(0)).await.unwrap();
    assert!(matches!(collected, Collected::Done { freed } if freed >= DATA), "{collected:?}");
    let root = only_root(&yard, "p61").await;
    assert!(root.running && root.bytes >= DATA, "{root:?}");
    let outcome = blocking(|| running.finish()).success();
    assert!(outcome.log("RUN echo ready").contains("/data: OK"), "{}", outcome.stderr);
    assert!(lease.usage().await.is_ok(), "the builder was left to its builds");
    let directory = yard.home("p61").join("builder");
    assert_close(only_root(&yard, "p61").await.bytes, &directory);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_come_first() {
    let yard = Yard::with(Settings { most: 1, ..settings() }).await;
    let (idle, busy, never) = (project(62), project(63), project(64));
    build(&yard, &idle, &[&context("idle")]).await;
    let lease = yard.lease(&busy).await;
    assert_eq!(yard.fleet.collect(&idle, at_most(0)).await.unwrap(), Collected::Busy);
    let nothing = Collected::Done { freed: 0 };
    assert_eq!(yard.fleet.collect(&never, at_most(0)).await.unwrap(), nothing);
    assert!(!yard.home("p64").exists(), "nothing is made for a cache that is not there");
    drop(lease);
    // Whichever is first, the build gets its builder; a collection that it ended can be asked for again.
    let (_, lease) = tokio::join!(yard.fleet.collect(&idle, at_most(0)), yard.lease(&busy));
    assert!(lease.usage().await.is_ok());
    drop(lease);
    eventually(|| yard.fleet.builders() == 0).await;
    yard.fleet.collect(&idle, at_most(0)).await.unwrap();
    assert!(du(&yard.home("p62").join("builder")) < EMPTY);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discarded_cache_takes_nothing() {
    let yard = Yard::with(settings()).await;
    let spec = project(65);
    build(&yard, &spec, &[&context("gone")]).await;
    // At the same time: whichever is first, nothing is left, and no builder is in the way.
    let (collected, discarded) =
        tokio::join!(yard.fleet.collect(&spec, at_most(0)), yard.fleet.discard("p65"));
    discarded.unwrap();
    eventually(|| yard.fleet.builders() == 0).await;
    assert!(!yard.home("p65").exists(), "{collected:?}");
    assert!(yard.fleet.measure("p65").await.unwrap().is_empty());
    assert_eq!(yard.fleet.cache_size("p65").await.unwrap().unwrap().bytes, 0);
    yard.close().await;
}
