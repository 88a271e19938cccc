//! What hits the cache and, more important, what must not.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use cofferdam_graph::{Edge, Output};
use cofferdam_solver::ErrorCode;
use world::{Content, Draft, Named, Part, World, edge};

/// Solves in a job of its own.
async fn build(world: &Arc<World>, edge: &Edge) -> Arc<str> {
    let job = world.solver().job("build").unwrap();
    job.solve(edge).await.unwrap()
}

#[tokio::test]
async fn a_diamond_runs_each_vertex_once() {
    let world = World::new(&[("base", "b")]);
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let left = draft.run("join left", &[(base, Named)]);
        let right = draft.run("join right", &[(base, Named)]);
        draft.run("join top", &[(left, Named), (right, Named)])
    });
    assert_eq!(&*build(&world, &target).await, "b[left]+b[right][top]");
    assert_eq!(world.executed.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn a_definition_hit_touches_nothing_below() {
    let world = World::new(&[("base", "b")]);
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let middle = draft.run("join middle", &[(base, Content)]);
        draft.run("join top", &[(middle, Named)])
    });
    let first = build(&world, &target).await;
    let (digested, lookups) = (world.digested.load(SeqCst), world.lookups.load(SeqCst));
    assert_eq!(build(&world, &target).await, first);
    assert_eq!(world.executed.lock().unwrap().len(), 3);
    assert_eq!(world.digested.load(SeqCst), digested);
    assert_eq!(world.lookups.load(SeqCst), lookups + 1);
}

#[tokio::test]
async fn another_selector_or_output_is_another_key() {
    let world = World::new(&[("base", "b")]);
    let with = |output: i64, part: &'static str| {
        edge(|draft| {
            let base = draft.source("text://base");
            let split = draft.run_with("join two", &[(base, Named)], 2, Default::default());
            draft.run("join top", &[(Output::new(split.digest, output), Part(part))])
        })
    };
    assert_eq!(&*build(&world, &with(0, "a")).await, "b[two]@0[top]");
    assert_eq!(&*build(&world, &with(1, "a")).await, "b[two]@1[top]");
    assert_eq!(world.runs("join top"), 2);
    build(&world, &with(1, "b")).await;
    assert_eq!(world.runs("join top"), 3);
    assert_eq!(world.runs("join two"), 1, "an output of a cached op ran the op again");
}

#[tokio::test]
async fn a_cache_may_hold_some_outputs_of_an_op() {
    let world = World::new(&[("base", "b")]);
    let of = |output: i64| {
        edge(|draft| {
            let base = draft.source("text://base");
            let split = draft.run_with("join two", &[(base, Named)], 2, Default::default());
            draft.run("join top", &[(Output::new(split.digest, output), Named)])
        })
    };
    build(&world, &of(0)).await;
    world.forget_outputs_but("b[two]@1");
    let job = world.solver().job("build").unwrap();
    assert_eq!(&*job.solve(&of(1)).await.unwrap(), "b[two]@1[top]");
    assert_eq!(world.runs("join two"), 1, "an output that is there was made again");
    assert_eq!(&*job.solve(&of(0)).await.unwrap(), "b[two]@0[top]");
    assert_eq!(world.runs("join two"), 2, "an output that is not there was not made");
}

fn copy_from_context(nonce: &str) -> Edge {
    edge(|draft| {
        let base = draft.source("text://base");
        let context = draft.source_with("local://context", nonce);
        let copy = draft.run("join copy", &[(base, Named), (context, Content)]);
        draft.run("join run", &[(copy, Named)])
    })
}

#[tokio::test]
async fn equal_content_hits_though_its_source_is_volatile() {
    let world = World::new(&[("base", "b"), ("context", "c")]);
    assert_eq!(&*build(&world, &copy_from_context("1")).await, "b+c[copy][run]");
    assert_eq!(&*build(&world, &copy_from_context("2")).await, "b+c[copy][run]");
    assert_eq!(world.runs("local://"), 2, "a volatile source was not read again");
    assert_eq!((world.runs("join copy"), world.runs("join run")), (1, 1));
    assert_eq!(world.runs("text://"), 1);

    world.write("context", "changed");
    assert_eq!(&*build(&world, &copy_from_context("3")).await, "b+changed[copy][run]");
    assert_eq!((world.runs("join copy"), world.runs("join run")), (2, 2));
}

#[tokio::test]
async fn volatile_sources_used_by_name_are_never_reused_or_kept() {
    let world = World::new(&[("context", "c")]);
    let target = || {
        edge(|draft| {
            let context = draft.source("local://context");
            let run = draft.run("join run", &[(context, Named)]);
            draft.run("join again", &[(run, Named)])
        })
    };
    build(&world, &target()).await;
    world.write("context", "other");
    assert_eq!(&*build(&world, &target()).await, "other[run][again]");
    assert_eq!(world.stored.load(SeqCst), 0);
}

#[tokio::test]
async fn a_content_hit_is_linked_to_its_definition() {
    let world = World::new(&[("one", "same"), ("two", "same")]);
    let target = |name: &str| {
        let mut draft = Draft::new();
        let source = draft.source(&format!("text://{name}"));
        // Different work below, equal content above.
        let cut = draft.run(&format!("print {}", "equal"), &[(source, Named)]);
        let other = draft.run(&format!("join {name}"), &[(source, Named)]);
        let merged = draft.run("print equal", &[(cut, Named), (other, Named)]);
        let top = draft.run("join top", &[(merged, Content)]);
        draft.edge(top)
    };
    build(&world, &target("one")).await;
    assert_eq!(world.runs("join top"), 1);
    build(&world, &target("two")).await;
    assert_eq!(world.runs("join top"), 1);
    let digested = world.digested.load(SeqCst);
    build(&world, &target("two")).await;
    assert_eq!(world.digested.load(SeqCst), digested, "the definition was not remembered");
}

#[tokio::test]
async fn forced_vertices_run_again_and_their_old_consumers_are_not_reused() {
    let world = World::new(&[("base", "b")]);
    let target = |fresh: bool| {
        edge(|draft| {
            let base = draft.source("text://base");
            let inputs = [(base, Named)];
            let number = if fresh {
                draft.run_fresh("unique", &inputs)
            } else {
                draft.run("unique", &inputs)
            };
            draft.run("join top", &[(number, Named)])
        })
    };
    let first = build(&world, &target(false)).await;
    assert_eq!(build(&world, &target(false)).await, first);
    let second = build(&world, &target(true)).await;
    assert_ne!(second, first);
    assert_eq!((world.runs("unique"), world.runs("join top")), (2, 2));
    // What was made last replaced what was there.
    assert_eq!(build(&world, &target(false)).await, second);
    assert_eq!((world.runs("unique"), world.runs("join top")), (2, 2));
    assert_ne!(build(&world, &target(true)).await, second);
}

#[tokio::test]
async fn equal_content_of_a_forced_vertex_ends_the_forcing() {
    let world = World::new(&[("base", "b")]);
    let target = |fresh: bool| {
        edge(|draft| {
            let base = draft.source("text://base");
            let inputs = [(base, Named)];
            let low = if fresh {
                draft.run_fresh("join low", &inputs)
            } else {
                draft.run("join low", &inputs)
            };
            let middle = draft.run("join middle", &[(low, Content)]);
            draft.run("join top", &[(middle, Named)])
        })
    };
    build(&world, &target(false)).await;
    build(&world, &target(true)).await;
    assert_eq!(world.runs("join low"), 2);
    assert_eq!((world.runs("join middle"), world.runs("join top")), (1, 1));
}

#[tokio::test]
async fn a_result_is_found_though_what_it_was_made_from_is_lost() {
    let world = World::new(&[("base", "b"), ("context", "c")]);
    let target = |nonce: &str| {
        edge(|draft| {
            let base = draft.source("text://base");
            let context = draft.source_with("local://context", nonce);
            let copy = draft.run("join copy", &[(base, Named), (context, Content)]);
            let stage = draft.run("unique stage", &[(copy, Named)]);
            draft.run("join last", &[(stage, Content)])
        })
    };
    let first = build(&world, &target("1")).await;
    world.forget_records_but(&first);
    let digested = world.digested.load(SeqCst);
    assert_eq!(build(&world, &target("2")).await, first);
    assert_eq!((world.runs("join copy"), world.runs("unique stage")), (1, 1));
    assert_eq!(world.digested.load(SeqCst), digested + 1, "only the context is looked at");

    world.write("context", "changed");
    assert_ne!(build(&world, &target("3")).await, first);
}

#[tokio::test]
async fn lost_records_cost_only_time() {
    let world = World::new(&[("base", "b")]);
    let target = edge(|draft| {
        let base = draft.source("text://base");
        draft.run("join top", &[(base, Named)])
    });
    let first = build(&world, &target).await;
    world.forget_records();
    assert_eq!(build(&world, &target).await, first);
    assert_eq!(world.runs("join top"), 2);
}

#[tokio::test]
async fn failures_name_their_vertex_and_are_not_remembered() {
    let world = World::new(&[("base", "b")]);
    let target = edge(|draft| {
        let base = draft.source("text://base");
        let bad = draft.run("fail make", &[(base, Named)]);
        let other = draft.run("join other", &[(base, Named)]);
        draft.run("join top", &[(bad, Named), (other, Named)])
    });
    let solver = world.solver();
    let first = solver.job("first").unwrap();
    let error = first.solve(&target).await.unwrap_err();
    assert_eq!(error.to_string(), "process \"make\" failed: exit code: 1");
    let bad = target.vertex.inputs[0].vertex.digest;
    assert_eq!((error.vertex(), error.code()), (Some(bad), ErrorCode::Unknown));
    assert_eq!(error.sources()[0].ranges[0].start.line, 7);
    assert_eq!(world.runs("join top"), 0);
    // The same job is told the same; another one tries again while the first is still open.
    first.solve(&target).await.unwrap_err();
    assert_eq!(world.runs("fail"), 1);
    let second = solver.job("second").unwrap();
    second.solve(&target).await.unwrap_err();
    assert_eq!(world.runs("fail"), 2);
}

#[tokio::test]
async fn failures_before_execution_belong_to_who_looked() {
    let world = World::new(&[("base", "missing")]);
    let job = world.solver().job("build").unwrap();
    let absent = edge(|draft| {
        let source = draft.source("text://absent");
        draft.run("join top", &[(source, Named)])
    });
    let error = job.solve(&absent).await.unwrap_err();
    assert_eq!(error.vertex(), Some(absent.vertex.inputs[0].vertex.digest));
    assert_eq!(error.code(), ErrorCode::NotFound);
    let looked = edge(|draft| {
        let source = draft.source("text://base");
        draft.run("join top", &[(source, Content)])
    });
    let error = job.solve(&looked).await.unwrap_err();
    assert_eq!(error.vertex(), Some(looked.vertex.digest));
    assert_eq!(error.to_string(), "\"/missing\": not found");
}
