//! Jobs that want the same work, leave, come late, and graphs of awkward shapes.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use cofferdam_graph::Edge;
use cofferdam_solver::{Event, JobError, Options, Places, SolveError, Solver};
use world::{Content, Draft, Named, World, edge};

fn waiting(gate: &str) -> Edge {
    edge(|draft| {
        let base = draft.source("text://base");
        let wait = draft.run(&format!("wait {gate}"), &[(base, Named)]);
        draft.run("join top", &[(wait, Named)])
    })
}

fn world() -> Arc<World> {
    World::new(&[("base", "b"), ("context", "c")])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_jobs_share_one_execution() {
    let world = world();
    let solver = world.solver();
    let gate = world.gate("g");
    let (one, two) = (solver.job("one").unwrap(), solver.job("two").unwrap());
    let (edge_one, edge_two) = (waiting("g"), waiting("g"));
    let first = tokio::spawn({
        let one = Arc::clone(&one);
        async move { one.solve(&edge_one).await }
    });
    gate.reached().await;
    let second = tokio::spawn({
        let two = Arc::clone(&two);
        async move { two.solve(&edge_two).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    gate.open();
    assert_eq!(first.await.unwrap().unwrap(), second.await.unwrap().unwrap());
    assert_eq!(world.runs("wait"), 1);
    assert_eq!(world.runs("join top"), 1);
}

#[tokio::test]
async fn equal_content_is_not_made_twice_at_the_same_time() {
    let world = world();
    let solver = world.solver();
    let gate = world.gate("g");
    let target = |nonce: &str| {
        edge(|draft| {
            let context = draft.source_with("local://context", nonce);
            draft.run("wait g", &[(context, Content)])
        })
    };
    let (one, two) = (solver.job("one").unwrap(), solver.job("two").unwrap());
    let (edge_one, edge_two) = (target("1"), target("2"));
    assert_ne!(edge_one.vertex.digest, edge_two.vertex.digest);
    let open = async {
        gate.reached().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        gate.open();
    };
    let (first, second, ()) = tokio::join!(one.solve(&edge_one), two.solve(&edge_two), open);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(world.runs("wait"), 1);
}

#[tokio::test]
async fn who_waits_for_equal_content_takes_over_when_the_maker_leaves() {
    let world = world();
    let solver = world.solver();
    let gate = world.gate("g");
    let target = |nonce: &str| {
        edge(|draft| {
            let context = draft.source_with("local://context", nonce);
            draft.run("wait g", &[(context, Content)])
        })
    };
    let one = solver.job("one").unwrap();
    let two = solver.job("two").unwrap();
    let (edge_one, edge_two) = (target("1"), target("2"));
    let leave = async {
        gate.reached().await;
        one.cancel();
        gate.reached().await;
        gate.open();
    };
    let late = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        two.solve(&edge_two).await
    };
    let (first, second, ()) = tokio::join!(one.solve(&edge_one), late, leave);
    assert!(matches!(first, Err(SolveError::Canceled)));
    assert_eq!(&*second.unwrap(), "c(g)");
    assert_eq!(world.dropped.load(SeqCst), 1);
}

#[tokio::test]
async fn one_of_two_jobs_may_leave() {
    let world = world();
    let solver = world.solver();
    let gate = world.gate("g");
    let (one, two) = (solver.job("one").unwrap(), solver.job("two").unwrap());
    let (edge_one, edge_two) = (waiting("g"), waiting("g"));
    let leave = async {
        gate.reached().await;
        one.close();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(world.dropped.load(SeqCst), 0);
        gate.open();
    };
    let (first, second, ()) = tokio::join!(one.solve(&edge_one), two.solve(&edge_two), leave);
    assert!(matches!(first, Err(SolveError::Canceled)));
    assert!(second.is_ok());
    assert_eq!(world.runs("wait"), 1);
}

#[tokio::test]
async fn work_stops_when_the_last_job_leaves_and_restarts_cleanly() {
    let world = world();
    let solver = world.solver();
    let gate = world.gate("g");
    let (one, two) = (solver.job("one").unwrap(), solver.job("two").unwrap());
    let (edge_one, edge_two) = (waiting("g"), waiting("g"));
    let leave = async {
        gate.reached().await;
        one.cancel();
        two.close();
    };
    let (first, second, ()) = tokio::join!(one.solve(&edge_one), two.solve(&edge_two), leave);
    assert!(matches!(first, Err(SolveError::Canceled)));
    assert!(matches!(second, Err(SolveError::Canceled)));
    while world.running.load(SeqCst) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(world.dropped.load(SeqCst), 1);

    let three = solver.job("three").unwrap();
    gate.open();
    assert_eq!(&*three.solve(&waiting("g")).await.unwrap(), "b(g)[top]");
    assert_eq!(world.runs("wait"), 2);
    assert!(matches!(one.solve(&waiting("g")).await, Err(SolveError::Canceled)));
}

#[tokio::test]
async fn dropping_a_solve_leaves_the_work_to_the_job() {
    let world = world();
    let solver = world.solver();
    let gate = world.gate("g");
    let job = solver.job("one").unwrap();
    let target = waiting("g");
    tokio::select! {
        _ = job.solve(&target) => unreachable!("the gate is closed"),
        () = gate.reached() => {}
    }
    gate.open();
    assert!(job.solve(&target).await.is_ok());
    assert_eq!(world.runs("wait"), 1);
    let identity = job.identity(&target.vertex.digest);
    assert!(identity.is_some());
    drop(job);
    let next = solver.job("one").unwrap();
    next.solve(&target).await.unwrap();
    assert_eq!(next.identity(&target.vertex.digest), identity);
}

#[tokio::test]
async fn job_ids_are_unique_while_open() {
    let solver = world().solver();
    let one = solver.job("one").unwrap();
    assert_eq!(solver.job("one").err(), Some(JobError::Exists("one".into())));
    assert!(solver.find("one").is_some());
    one.close();
    assert!(solver.find("one").is_none());
    let again = solver.job("one").unwrap();
    one.close();
    drop(one);
    assert!(solver.find("one").is_some(), "an old job closed a new one");
    drop(again);
    assert!(solver.find("one").is_none());
}

#[tokio::test]
async fn the_runtime_learns_which_jobs_want_a_step() {
    let world = world();
    let job = world.solver().job("mine").unwrap();
    let target = edge(|draft| draft.source("text://base"));
    job.solve(&target).await.unwrap();
    assert_eq!(*world.jobs_seen.lock().unwrap(), vec![Arc::from("mine")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallelism_is_limited() {
    let world = world();
    let options = Options { parallelism: Some(2), ..Options::default() };
    let solver = Solver::new(Arc::clone(&world), options);
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let many: Vec<_> = (0..50)
            .map(|number| (draft.run(&format!("join {number}"), &[(base, Named)]), Named))
            .collect();
        draft.run("join top", &many)
    });
    solver.job("one").unwrap().solve(&target).await.unwrap();
    assert_eq!(world.executed.lock().unwrap().len(), 52);
    assert!(world.peak.load(SeqCst) <= 2);
}

#[tokio::test]
async fn a_step_that_waits_for_others_can_give_up_its_place() {
    let world = world();
    let options = Options { parallelism: Some(1), ..Options::default() };
    let solver = Solver::new(Arc::clone(&world), options);
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let wait = draft.run("yield g", &[(base, Named)]);
        let open = draft.run("open g", &[(base, Named)]);
        draft.run("join top", &[(wait, Named), (open, Named)])
    });
    let job = solver.job("one").unwrap();
    tokio::time::timeout(Duration::from_secs(10), job.solve(&target)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_panic_fails_its_vertex_and_hangs_nobody() {
    let world = world();
    let job = world.solver().job("one").unwrap();
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let bad = draft.run("panic now", &[(base, Named)]);
        draft.run("join top", &[(bad, Named)])
    });
    let error = job.solve(&target).await.unwrap_err();
    let bad = target.vertex.inputs[0].vertex.digest;
    assert_eq!(error.vertex(), Some(bad));
    let mut events = job.events();
    job.close();
    let mut shown = None;
    while let Some(event) = events.next().await {
        match &*event {
            Event::Vertex(state) if state.digest == bad => shown = state.error.clone(),
            _ => {}
        }
    }
    assert!(shown.unwrap().contains("without a result"));
}

#[test]
fn long_chains_cost_no_stack() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(256 << 10)
        .enable_all()
        .build()
        .unwrap();
    let mut draft = Draft::new();
    let mut last = draft.source("text://base");
    for number in 0..10_000 {
        last = draft.run(&format!("print {number}"), &[(last, Named)]);
    }
    let target = draft.edge(last);
    let world = world();
    let task = {
        let (world, target) = (Arc::clone(&world), target.clone());
        runtime.spawn(async move {
            let solver = world.solver();
            let first = solver.job("one").unwrap();
            let mut events = first.events();
            assert_eq!(&*first.solve(&target).await.unwrap(), "9999");
            first.close();
            drop(first);
            let mut count = 0;
            while let Some(batch) = events.batch(1000).await {
                count += batch.len();
            }
            assert!(count >= 40_000, "{count} events");
            let second = solver.job("two").unwrap();
            second.solve(&target).await.unwrap();
            assert_eq!(world.executed.lock().unwrap().len(), 10_001);
        })
    };
    runtime.block_on(task).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ladders_of_diamonds_do_not_explode() {
    let world = world();
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let (mut left, mut right) = (base, base);
        for step in 0..60 {
            let inputs = [(left, Content), (right, Named)];
            left = draft.run(&format!("print l{step}"), &inputs);
            right = draft.run(&format!("print r{step}"), &inputs);
        }
        draft.run("join top", &[(left, Named), (right, Named)])
    });
    let job = world.solver().job("one").unwrap();
    tokio::time::timeout(Duration::from_secs(20), job.solve(&target)).await.unwrap().unwrap();
    assert_eq!(world.executed.lock().unwrap().len(), 122);
}

#[tokio::test]
async fn jobs_of_one_build_share_its_places_and_others_have_their_own() {
    let world = world();
    let solver = world.solver();
    let places = Places::new(Some(1));
    let jobs = [
        solver.job_within("one", places.clone()).unwrap(),
        solver.job_within("two", places).unwrap(),
        solver.job_within("other", Places::new(Some(1))).unwrap(),
    ];
    let gates: Vec<_> = ["a", "b", "c"].into_iter().map(|name| world.gate(name)).collect();
    let targets: Vec<_> =
        ["a", "b", "c"].map(|name| edge(|draft| draft.run(&format!("wait {name}"), &[]))).into();
    let runs: Vec<_> = jobs
        .iter()
        .zip(&targets)
        .map(|(job, target)| {
            let (job, target) = (Arc::clone(job), target.clone());
            tokio::spawn(async move { job.solve(&target).await.map(|_| ()) })
        })
        .collect();
    // The third is another build's; of the first two one runs and one waits.
    gates[2].reached().await;
    let first = tokio::select! {
        () = gates[0].reached() => 0,
        () = gates[1].reached() => 1,
    };
    let second = 1 - first;
    let early = tokio::time::timeout(Duration::from_millis(100), gates[second].reached()).await;
    assert!(early.is_err(), "two steps of one build run at once");
    gates[first].open();
    gates[second].reached().await;
    for gate in &gates {
        gate.open();
    }
    for run in runs {
        run.await.unwrap().unwrap();
    }
}
