//! What a builder keeps: limits of its disk hold while it works, and what was finished survives a kill.

use std::time::{Duration, Instant};

use bollard_buildkit_proto::moby::buildkit::v1::BuildHistoryRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use cofferdam_tests::usage::du;
use cofferdam_tests::{Builder, Context, Options, need_root};
use tonic::transport::Endpoint;

const MB: u64 = 1_000_000;
/// What one step of these builds writes.
const STEP: u64 = 20 * MB;
const LIMIT: u64 = 120 * MB;
/// Much less than the time between two collections of a builder where nothing happens.
const SOON: Duration = Duration::from_secs(15);

fn limited() -> Builder {
    let config =
        format!("[[worker.oci.gcpolicy]]\nall = true\nmaxUsedSpace = \"{}MB\"\n", LIMIT / MB);
    Builder::start(&Options { config, ..Options::default() })
}

/// A layer that nothing can make smaller, and that no other build has.
fn filler(name: &str) -> Context {
    Context::dockerfile(&format!(
        "FROM @busybox\nRUN echo {name} > /name && head -c {STEP} /dev/urandom > /file\n"
    ))
}

fn fill(builder: &Builder, context: &Context) {
    let _ = builder.build(context).run().success();
}

fn is_cached(builder: &Builder, context: &Context) -> bool {
    builder.build(context).run().success().ran().is_empty()
}

/// Waits until the builder's root takes no more than this.
fn shrinks(builder: &Builder, most: u64) {
    let begun = Instant::now();
    while du(&builder.root()) > most {
        assert!(begun.elapsed() < SOON, "{} bytes, at most {most} wanted", du(&builder.root()));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_limit_holds_while_builds_come_and_what_is_used_stays() {
    need_root();
    let builder = limited();
    let contexts: Vec<Context> = (0..12).map(|number| filler(&number.to_string())).collect();
    for context in &contexts {
        fill(&builder, context);
        // The first is used again and again, and never the longest unused.
        assert!(is_cached(&builder, &contexts[0]));
        assert!(du(&builder.root()) <= LIMIT + 2 * STEP, "{}", du(&builder.root()));
        shrinks(&builder, LIMIT);
    }
    assert!(du(&builder.root()) > LIMIT / 2, "there was no need to take everything");
    assert!(is_cached(&builder, &contexts[11]), "the last");
    assert!(is_cached(&builder, &contexts[0]), "the most used");
    assert!(!is_cached(&builder, &contexts[1]), "the longest unused");
}

#[test]
fn one_build_that_writes_much_makes_room_while_it_runs() {
    need_root();
    let builder = limited();
    for number in 0..4 {
        fill(&builder, &filler(&number.to_string()));
    }
    let go = "RUN --mount=type=cache,id=go,target=/go";
    let large = Context::dockerfile(&format!(
        "FROM @busybox\nRUN head -c {} /dev/urandom > /large\n\
         {go} echo wait$((1))ing; while [ ! -e /go/now ]; do sleep 0.1; done; wc -c < /large > /size\n",
        3 * STEP
    ));
    let out = tempfile::tempdir().unwrap();
    let output = format!("type=local,dest={}", out.path().display());
    let build = builder.build(&large).arg("--output").arg(output).spawn();
    build.wait_for("wait1ing");
    // The build goes on: its base stays, and others go for it.
    shrinks(&builder, LIMIT);
    for number in 4..10 {
        fill(&builder, &filler(&number.to_string()));
        shrinks(&builder, LIMIT);
    }
    let open = Context::dockerfile(&format!("FROM @busybox\n{go} touch /go/now\n"));
    fill(&builder, &open);
    let _ = build.finish().success();
    let size = std::fs::read_to_string(out.path().join("size")).unwrap();
    assert_eq!(size.trim(), (3 * STEP).to_string());
    assert_eq!(out.path().join("large").metadata().unwrap().len(), 3 * STEP);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_finished_survives_a_kill_at_once() {
    let mut builder = Builder::plain();
    for round in 1..=3 {
        let context = Context::dockerfile(&format!(
            "FROM @busybox\nRUN echo {round}\nRUN --mount=type=cache,id=kept,target=/c echo {round} >> /c/rounds && wc -l < /c/rounds > /rounds\n"
        ));
        fill(&builder, &context);
        let home = builder.kill();
        builder = Builder::start_in(home, &Options::default());
        let outcome = builder.build(&context).run().success();
        assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
        assert_eq!(builder.build(&context).image().text("rounds"), format!("{round}\n"));
        let endpoint = Endpoint::from_shared(builder.address()).unwrap();
        let mut client = ControlClient::new(endpoint.connect().await.unwrap());
        let request = BuildHistoryRequest { early_exit: true, ..Default::default() };
        let mut events = client.listen_build_history(request).await.unwrap().into_inner();
        let mut records = 0;
        while let Some(event) = events.message().await.unwrap() {
            assert!(event.record.unwrap().completed_at.is_some());
            records += 1;
        }
        // The one before the kill, and two after it.
        assert_eq!(records, 3 * round);
    }
}
