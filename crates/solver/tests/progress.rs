//! What readers of a job's events see, and in which order.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use std::sync::Arc;
use std::time::Duration;

use cofferdam_digest::Digest;
use cofferdam_graph::Edge;
use cofferdam_solver::{
    Event, EventStream, Job, LogLimits, LogStream, Options, Solver, Status, VertexState, Warning,
};
use cofferdam_wire::pb;
use world::{Named, World, edge};

async fn all(mut events: EventStream) -> Vec<Arc<Event>> {
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event);
    }
    seen
}

async fn closed(job: &Job<World>) -> Vec<Arc<Event>> {
    let events = job.events();
    job.close();
    all(events).await
}

fn states<'a>(events: &'a [Arc<Event>], digest: &Digest) -> Vec<&'a VertexState> {
    let state = |event: &'a Arc<Event>| match &**event {
        Event::Vertex(state) if state.digest == *digest => Some(state),
        _ => None,
    };
    events.iter().filter_map(state).collect()
}

fn logs(events: &[Arc<Event>]) -> String {
    let log = |event: &Arc<Event>| match &**event {
        Event::Log(chunk) => Some(String::from_utf8_lossy(&chunk.data).into_owned()),
        _ => None,
    };
    events.iter().filter_map(log).collect()
}

fn printing() -> Edge {
    edge(|draft| {
        let base = draft.source("text://base");
        let print = draft.run("print hello", &[(base, Named)]);
        draft.run("join top", &[(print, Named)])
    })
}

fn world() -> Arc<World> {
    World::new(&[("base", "b")])
}

#[tokio::test]
async fn vertices_are_announced_started_and_completed_in_order() {
    let world = world();
    let job = world.solver().job("one").unwrap();
    let target = printing();
    let live = tokio::spawn(all(job.events()));
    job.solve(&target).await.unwrap();
    let events = closed(&job).await;
    assert_eq!(live.await.unwrap().len(), events.len(), "a live reader saw something else");

    let print = &target.vertex.inputs[0].vertex;
    let base = &print.inputs[0].vertex;
    let announced: Vec<Digest> = events[..3]
        .iter()
        .map(|event| match &**event {
            Event::Vertex(state) if state.started.is_none() => state.digest,
            other => panic!("expected an announcement, got {other:?}"),
        })
        .collect();
    assert_eq!(announced, [base.digest, print.digest, target.vertex.digest]);
    for vertex in [base, print, &target.vertex] {
        let seen = states(&events, &vertex.digest);
        assert!(seen.iter().all(|state| *state.name == vertex.name()));
        assert!(seen.iter().all(|state| state.inputs.len() == vertex.inputs.len()));
        let last = seen.last().unwrap();
        assert!(last.started.unwrap() <= last.completed.unwrap());
        assert!(!last.cached && last.error.is_none());
    }
    assert_eq!(states(&events, &print.digest).len(), 3);
    assert_eq!(logs(&events), "hello");
}

#[tokio::test]
async fn what_a_cached_result_did_not_need_is_shown_as_cached() {
    let world = world();
    let solver = world.solver();
    let target = printing();
    solver.job("one").unwrap().solve(&target).await.unwrap();
    let job = solver.job("two").unwrap();
    job.solve(&target).await.unwrap();
    let events = closed(&job).await;
    let print = &target.vertex.inputs[0].vertex;
    let base = &print.inputs[0].vertex;
    let top = states(&events, &target.vertex.digest);
    assert!(top.last().unwrap().cached && top.last().unwrap().saved.is_some());
    let seen = states(&events, &print.digest);
    let last = seen.last().unwrap();
    assert!(last.cached && last.started.is_some() && last.started == last.completed);
    assert_eq!(last.started, top.last().unwrap().started);
    // The source was asked for its name, which is work of its own.
    assert!(!states(&events, &base.digest).last().unwrap().cached);
    assert_eq!(logs(&events), "");
}

#[tokio::test]
async fn only_the_failing_vertex_has_an_error() {
    let world = world();
    let job = world.solver().job("one").unwrap();
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let bad = draft.run("fail x", &[(base, Named)]);
        draft.run("join top", &[(bad, Named)])
    });
    let error = job.solve(&target).await.unwrap_err();
    let events = closed(&job).await;
    let bad = target.vertex.inputs[0].vertex.digest;
    let last = *states(&events, &bad).last().unwrap();
    assert_eq!(last.error.as_deref(), Some(&*error.to_string()));
    assert!(last.completed.is_some());
    let top = states(&events, &target.vertex.digest);
    assert!(top.iter().all(|state| state.started.is_none() && state.error.is_none()));
}

#[tokio::test]
async fn closing_shows_running_vertices_as_cancelled() {
    let world = world();
    let job = world.solver().job("one").unwrap();
    let target = edge(|draft| {
        let base = draft.source("text://base");
        draft.run("wait g", &[(base, Named)])
    });
    let gate = world.gate("g");
    tokio::select! {
        _ = job.solve(&target) => unreachable!("the gate is closed"),
        () = gate.reached() => {}
    }
    let events = closed(&job).await;
    let last = *states(&events, &target.vertex.digest).last().unwrap();
    assert_eq!(last.error.as_deref(), Some("context canceled"));
    assert!(last.completed.is_some());
    let base = target.vertex.inputs[0].vertex.digest;
    assert!(states(&events, &base).last().unwrap().error.is_none());
}

#[tokio::test]
async fn a_late_job_is_told_what_happened_before() {
    let world = world();
    let solver = world.solver();
    let gate = world.gate("g");
    let target = edge(|draft| draft.run("wait g", &[]));
    let one = solver.job("one").unwrap();
    let two = solver.job("two").unwrap();
    let late = async {
        gate.reached().await;
        let open = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            gate.open();
        };
        tokio::join!(two.solve(&target), open).0
    };
    let (first, second) = tokio::join!(one.solve(&target), late);
    assert_eq!(first.unwrap(), second.unwrap());
    let (one, two) = (closed(&one).await, closed(&two).await);
    assert_eq!(logs(&two), "waiting\n");
    assert_eq!(logs(&one), logs(&two));
    assert!(states(&two, &target.vertex.digest)[0].started.is_none());
}

#[tokio::test]
async fn output_over_the_limit_is_clipped_with_a_notice() {
    let world = world();
    let logs_limit = LogLimits { bytes: Some(10), bytes_per_second: None };
    let options = Options { logs: logs_limit, ..Options::default() };
    let solver = Solver::new(world, options);
    let job = solver.job("one").unwrap();
    let log = job.vertex(Digest::of("x"), "exporting");
    log.start();
    log.log(LogStream::Stdout, "12345678");
    log.log(LogStream::Stdout, "abcdef");
    log.log(LogStream::Stdout, "more");
    log.complete();
    let text = logs(&closed(&job).await);
    assert_eq!(
        text,
        "12345678ab[output clipped, log limit 10B reached]\n[8 bytes of output were dropped]\n"
    );
}

#[tokio::test]
async fn the_builders_own_vertices_are_part_of_the_stream() {
    let solver = world().solver();
    let job = solver.job("one").unwrap();
    let digest = Digest::of("load metadata");
    let log = job.vertex(digest, "[internal] load metadata");
    let result: Result<(), String> = log
        .track(async {
            log.status(Status::begin("sha256:1", "downloading").at(0, 10));
            for current in 1..10 {
                log.status(Status::begin("sha256:1", "downloading").at(current, 10));
            }
            log.status(Status::begin("sha256:1", "done").at(10, 10).done());
            log.warning(Warning { level: 1, short: "careful".into(), ..Warning::default() });
            Err("unreachable host".to_owned())
        })
        .await;
    assert!(result.is_err());
    job.vertex(digest, "[internal] load metadata").log(LogStream::Stderr, "again");
    let mut late = job.events();
    let events = closed(&job).await;
    let seen = states(&events, &digest);
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[2].error.as_deref(), Some("unreachable host"));
    let statuses: Vec<i64> = events
        .iter()
        .filter_map(|event| match &**event {
            Event::Status(update) => Some(update.status.current),
            _ => None,
        })
        .collect();
    assert_eq!(statuses, [0, 10], "updates in between come too fast to be read");
    assert!(events.iter().any(|event| matches!(&**event, Event::Warning(_))));
    assert_eq!(logs(&events), "again");
    let first = late.batch(2).await.unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(all(late).await.len(), events.len() - 2);
}

#[tokio::test]
async fn a_vertex_with_and_without_cache_is_shown_twice() {
    let world = world();
    let job = world.solver().job("one").unwrap();
    let plain = edge(|draft| draft.run("join x", &[]));
    let fresh = edge(|draft| draft.run_fresh("join x", &[]));
    assert_eq!(plain.vertex.digest, fresh.vertex.digest);
    job.solve(&plain).await.unwrap();
    job.solve(&fresh).await.unwrap();
    job.solve(&fresh).await.unwrap();
    assert_eq!(world.runs("join x"), 2);
    let events = closed(&job).await;
    let twin = Digest::of(format!("{}-ignorecache", plain.vertex.digest));
    assert_eq!(states(&events, &plain.vertex.digest).len(), 3 + 2);
    assert!(states(&events, &twin).last().unwrap().completed.is_some());
}

#[tokio::test]
async fn a_vertex_is_shown_with_its_progress_group() {
    let world = world();
    let job = world.solver().job("one").unwrap();
    let group = pb::ProgressGroup { id: "group".into(), weak: true, ..Default::default() };
    let metadata =
        pb::OpMetadata { progress_group: Some(group).into(), ..pb::OpMetadata::default() };
    let target = edge(|draft| {
        let base = draft.source("text://base");
        draft.run_with("join x", &[(base, Named)], 1, metadata)
    });
    job.solve(&target).await.unwrap();
    let events = closed(&job).await;
    let group = |digest: &Digest| {
        let last = states(&events, digest).last().and_then(|state| state.progress_group.clone());
        last.map(|group| (group.id, group.weak))
    };
    assert_eq!(group(&target.vertex.digest), Some(("group".to_owned(), true)));
    assert_eq!(group(&target.vertex.inputs[0].vertex.digest), None);
}
