//! A builder whose clock is set, between two starts and while a step runs: years ahead, and years back.
//!
//! The supervisor gives the builder an environment and a root of its own, where the library that [`super::clock`] uses finds
//! neither its settings nor its file. So this one is a few lines of C that need neither, and the loader is told of it by a file
//! that only the builder's mount namespace has. Steps keep the machine's clock.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};
use cofferdam_tests::marks::{appears, mark};
use cofferdam_tests::{Builder, Context, Image, Options, leftovers, need_root, repository};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::shared::{attempt, context, fixed, intact, same, tidy, undisturbed};

const YEAR: i64 = 365 * 24 * 3600;
const TWO_DAYS: Duration = Duration::from_secs(48 * 3600);
/// What the collector has to keep to, with nothing to collect for it.
const CONFIG: &str = "[[worker.oci.gcpolicy]]\nall = true\nmaxUsedSpace = \"1GB\"\n";
/// Runs a program where the loader finds the library `$1`, in a copy of `/etc` at `$0`.
const WITHIN: &str = "lib=$1 && shift && mount -t tmpfs -o mode=755 none \"$0\" && \
     cp -a /etc/. \"$0\" && echo \"$lib\" > \"$0/ld.so.preload\" && \
     mount --bind \"$0\" /etc && exec \"$@\"";

/// The clock of builders.
struct Hands {
    dir: TempDir,
    ahead: File,
}

impl Hands {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The builder's ids are not its owner's.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let file = dir.path().join("ahead");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1"]).arg(format!("-DAHEAD=\"{}\"", file.display()));
        compiler.arg("-o").arg(dir.path().join("clock.so"));
        compiler.arg(repository().join("tests/fixtures/clock.c")).arg("-ldl");
        assert!(compiler.status().unwrap().success(), "compile the clock");
        let ahead = OpenOptions::new().write(true).create_new(true).open(&file).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let hands = Self { dir, ahead };
        hands.set(0);
        hands
    }

    /// Sets the clock of every builder, also of one that runs.
    fn set(&self, years: i64) {
        self.ahead.write_all_at(&(years * YEAR).to_ne_bytes(), 0).unwrap();
    }

    fn options(&self) -> Options {
        let path = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", WITHIN];
        let mut within: Vec<String> = words.map(str::to_owned).into();
        within.extend([path("etc"), path("clock.so")]);
        Options { config: CONFIG.to_owned(), within, ..Options::default() }
    }
}

/// The year in which the enclosed process of this builder, the newest of its home, said that it is there.
fn year(builder: &Builder) -> i64 {
    let log = builder.log();
    let line = log.lines().rfind(|line| line.contains("builder is ready")).unwrap();
    line.split('-').next().unwrap().parse().unwrap()
}

/// Asks the builder for something over its socket.
fn ask<T>(builder: &Builder, ask: impl AsyncFnOnce(ControlClient<Channel>) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(builder.address()).unwrap();
        ask(ControlClient::new(endpoint.connect().await.unwrap())).await
    })
}

/// Removes what was not used for so long, and that is not in use.
fn prune(builder: &Builder, unused_for: Duration) {
    let keep_duration = i64::try_from(unused_for.as_nanos()).unwrap();
    ask(builder, async |mut client| {
        let request = PruneRequest { all: true, keep_duration, ..PruneRequest::default() };
        let mut pruned = client.prune(request).await.unwrap().into_inner();
        while pruned.message().await.unwrap().is_some() {}
    });
}

fn usage(builder: &Builder) -> Vec<UsageRecord> {
    ask(builder, async |mut client| {
        client.disk_usage(DiskUsageRequest::default()).await.unwrap().into_inner().record
    })
}

/// Builds without a change: nothing may run, and the image is this one.
fn cached(builder: &Builder, context: &Context, wanted: &str) {
    let (outcome, image) = fixed(builder, context).image_with(",rewrite-timestamp=true");
    assert_eq!(outcome.ran(), [] as [String; 0], "{}", outcome.stderr);
    assert_eq!(image.digest, wanted, "another image than before");
}

/// What has to hold with any clock.
fn works(builder: &Builder, context: &Context, wanted: &str) {
    cached(builder, context, wanted);
    // What was used a moment ago is not old.
    prune(builder, TWO_DAYS);
    cached(builder, context, wanted);
    same(builder, context, "--no-cache", wanted);
    prune(builder, TWO_DAYS);
    cached(builder, context, wanted);
    let usage = usage(builder);
    assert!(usage.iter().any(|record| record.size >= 2 << 20), "{usage:?}");
    assert!(usage.iter().all(|record| record.created_at.is_some()), "{usage:?}");
}

/// A build with one step that sleeps until `meanwhile` is over.
fn build_while(
    builder: &Builder,
    context: &Context,
    mark: &str,
    meanwhile: impl FnOnce(),
) -> Image {
    std::thread::scope(|scope| {
        let build = scope.spawn(|| attempt(builder, context, "--no-cache"));
        appears(mark);
        meanwhile();
        for (pid, _) in leftovers::marked(mark) {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        }
        build.join().unwrap().unwrap_or_else(|error| panic!("the build failed:\n{error}"))
    })
}

#[test]
fn a_builder_goes_on_when_its_clock_was_set_between_two_starts() {
    need_root();
    let context = context(500);
    let wanted = undisturbed(&context);
    let hands = Hands::new();
    let builder = Builder::start(&hands.options());
    same(&builder, &context, "", &wanted);
    works(&builder, &context, &wanted);
    let present = year(&builder);
    let mut home = intact(builder);
    for years in [6, -6, 0] {
        hands.set(years);
        let builder = Builder::start_in(Arc::clone(&home), &hands.options());
        works(&builder, &context, &wanted);
        // It is told a moment after the builder can be reached.
        let apart = year(&builder) - present;
        assert!((apart - years).abs() <= 1, "control: the builder's clock is {apart} years ahead");
        tidy(&builder);
        home = intact(builder);
    }
}

#[test]
fn a_builder_goes_on_when_its_clock_is_set_while_a_step_runs() {
    need_root();
    let mark = mark(95);
    let sleeping = Context::dockerfile(&format!(
        "FROM @busybox\nRUN echo before > /before\nRUN sleep {mark}; echo over > /over\n"
    ));
    let other = context(501);
    let hands = Hands::new();
    let builder = Builder::start(&hands.options());
    let wanted = build_while(&builder, &sleeping, &mark, || ()).digest;
    let unchanged = attempt(&builder, &other, "").unwrap().digest;
    for years in [6, -6, 0] {
        let image = build_while(&builder, &sleeping, &mark, || {
            hands.set(years);
            // Nothing became old by it, and what the running build holds stays in any case.
            prune(&builder, TWO_DAYS);
            cached(&builder, &other, &unchanged);
            prune(&builder, Duration::ZERO);
            same(&builder, &other, "", &unchanged);
        });
        assert_eq!(image.text("over"), "over\n");
        assert_eq!(image.digest, wanted, "the clock went by {years} years");
        cached(&builder, &sleeping, &wanted);
        works(&builder, &other, &unchanged);
    }
    assert!(builder.log().contains("the clock jumped ahead"), "control");
    tidy(&builder);
    let _ = intact(builder);
}
