//! What builds on one builder see of each other (nothing), and what the server sees of them (everything).

use std::sync::Arc;
use std::time::Duration;

use cofferdam_fleet::FleetError;
use cofferdam_tests::marks::mark;
use cofferdam_tests::{Context, leftovers};
use cofferdam_wire::cofferdam::builder::v1::__buffa::oneof::watch_build_response::Event;

use super::yard::{Door, Seen, Settings, Yard, blocking, project};

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_sees_all_of_its_build_live_and_nothing_of_others() {
    let yard = Yard::new().await;
    let lease = Arc::new(yard.lease(&project(20)).await);
    let (seen, ended) = Seen::collect(lease.watch("one").await.unwrap());
    let (other, _) = Seen::collect(lease.watch("two").await.unwrap());
    let door = Door::open(&lease, "one");
    let context = Context::dockerfile(
        "FROM @busybox\nRUN echo early; sleep 3; echo late\nRUN seq 1 20000\nRUN echo last > /l\n",
    );
    let build = door.build(&context).spawn();
    // Live: the step has printed its first line and is still at it.
    seen.until(|seen| seen.logs().contains("early")).await;
    assert!(!seen.logs().contains("late"));
    let outcome = blocking(|| build.finish()).success();
    let again = Context::dockerfile("FROM @busybox\nRUN echo early; sleep 3; echo late\n");
    let _ = blocking(|| door.build(&again).run()).success();
    lease.close("one").await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap();
    assert_eq!(error, None, "closed: the stream ends in good order");
    let (started, over) = seen.solves();
    assert_eq!(started.len(), 2);
    assert_ne!(started[0], started[1]);
    assert!(over.iter().all(|(_, error, canceled)| error.is_none() && !canceled), "{over:?}");
    for step in outcome.user_steps() {
        assert!(
            seen.completed().contains(&step.name),
            "{:?} lacks {:?}",
            seen.completed(),
            step.name
        );
    }
    let logs = seen.logs();
    let numbers = (1..=20000).map(|number| format!("{number}\n"));
    assert!(logs.contains(&numbers.collect::<String>()), "every line, in order");
    // What the cache answered the second time has its cost.
    let saved = seen.events().into_iter().filter_map(|event| match event {
        Event::Status(status) => Some(status),
        _ => None,
    });
    let saved: i64 = saved
        .flat_map(|status| status.vertexes.clone())
        .filter(|vertex| vertex.cached && vertex.name.contains("early"))
        .map(|vertex| vertex.savedNanoseconds)
        .max()
        .unwrap();
    assert!(saved >= 3_000_000_000, "{saved}");
    assert!(other.events().is_empty());
    // Who watches a closed build gets its end and nothing else.
    let (late, ended) = Seen::collect(lease.watch("one").await.unwrap());
    assert_eq!(ended.await.unwrap(), None);
    assert!(late.events().is_empty());
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_watcher_sees_a_build_from_its_beginning() {
    let yard = Yard::new().await;
    let lease = Arc::new(yard.lease(&project(21)).await);
    let door = Door::open(&lease, "b");
    let context = Context::dockerfile("FROM @busybox\nRUN echo unseen\nRUN false\n");
    let error = blocking(|| door.build(&context).run().failure());
    let (seen, ended) = Seen::collect(lease.watch("b").await.unwrap());
    seen.until(|seen| seen.solves().1.len() == 1).await;
    assert!(seen.logs().contains("unseen"));
    let (_, over) = seen.solves();
    let message = over[0].1.clone().unwrap();
    assert!(message.contains("exit code: 1") && !over[0].2, "{message}");
    assert!(error.contains("exit code: 1"), "{error}");
    lease.close("b").await.unwrap();
    assert_eq!(ended.await.unwrap(), None);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_one_build_and_its_client_reads_why() {
    let yard = Yard::new().await;
    let lease = Arc::new(yard.lease(&project(22)).await);
    let (doomed, spared) = (Door::open(&lease, "doomed"), Door::open(&lease, "spared"));
    let (seen, _) = Seen::collect(lease.watch("doomed").await.unwrap());
    let mark = mark(22);
    let slow = |text: &str| {
        Context::dockerfile(&format!("FROM @busybox\nRUN echo {text}; sleep {mark}\n"))
    };
    let stays = Context::dockerfile("FROM @busybox\nRUN echo stay; sleep 4; echo stayed > /s\n");
    let (first, second) = (slow("first"), slow("second"));
    let running = [doomed.build(&first).spawn(), doomed.build(&second).spawn()];
    let other = spared.build(&stays).spawn();
    blocking(|| other.wait_for("stay"));
    seen.until(|seen| seen.logs().contains("first") && seen.logs().contains("second")).await;
    let reason = "the project was reset by its owner";
    lease.cancel("doomed", reason).await.unwrap();
    for build in running {
        let error = blocking(|| build.finish().failure());
        assert!(error.contains(reason), "{error}");
    }
    seen.until(|seen| seen.solves().1.len() == 2).await;
    for (_, error, canceled) in seen.solves().1 {
        assert_eq!((error.as_deref(), canceled), (Some(reason), true));
    }
    assert!(leftovers::marked(&mark).is_empty(), "its steps are gone");
    let _ = blocking(|| other.finish()).success();
    // It takes no more, and says why.
    let error = blocking(|| doomed.build(&stays).run().failure());
    assert!(error.contains(reason), "{error}");
    lease.close("spared").await.unwrap();
    let error = blocking(|| spared.build(&stays).run().failure());
    assert!(error.contains("ended and takes no more"), "{error}");
    // A build that nobody has heard of yet can be cancelled and closed ahead.
    lease.cancel("unborn", "never mind").await.unwrap();
    let unborn = Door::open(&lease, "unborn");
    let error = blocking(|| unborn.build(&stays).run().failure());
    assert!(error.contains("never mind"), "{error}");
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_steps_connect_to_is_recorded() {
    // Loopback is refused by policy, so this needs nothing of the outside.
    let yard = Yard::with(Settings::default()).await;
    let lease = Arc::new(yard.lease(&project(23)).await);
    let (seen, _) = Seen::collect(lease.watch("b").await.unwrap());
    let door = Door::open(&lease, "b");
    let context = Context::dockerfile(
        "FROM @busybox\nRUN nc -w 2 10.1.2.3 4567 </dev/null; nc -w 2 192.168.9.9 80 </dev/null; true\n",
    );
    let _ = blocking(|| door.build(&context).run()).success();
    seen.until(|seen| !seen.solves().1.is_empty()).await;
    let mut found = Vec::new();
    for event in seen.events() {
        if let Event::Connections(connections) = event {
            assert_eq!(connections.r#ref, seen.solves().0[0]);
            found.extend(connections.connections);
        }
    }
    let one = found.iter().find(|one| one.address == "10.1.2.3").unwrap();
    assert_eq!((one.port, one.allowed, one.protocol.as_str()), (4567, false, "tcp"));
    assert!(one.vertex.starts_with("sha256:") && one.opened_at.is_set());
    assert!(found.iter().any(|one| one.address == "192.168.9.9"));
    let last = seen.events().pop().unwrap();
    assert!(matches!(last, Event::SolveEnded(_)), "the end comes after everything else");
    // A step that is cancelled has its record too.
    let (seen, _) = Seen::collect(lease.watch("c").await.unwrap());
    let door = Door::open(&lease, "c");
    let context = Context::dockerfile(
        "FROM @busybox\nRUN nc -w 2 10.9.9.9 99 </dev/null; echo tried; sleep 1000\n",
    );
    let build = door.build(&context).spawn();
    seen.until(|seen| seen.logs().contains("tried")).await;
    lease.cancel("c", "enough").await.unwrap();
    let _ = blocking(|| build.finish()).failure();
    seen.until(|seen| !seen.solves().1.is_empty()).await;
    let recorded = seen.events().into_iter().any(|event| {
        matches!(event, Event::Connections(some) if some.connections.iter().any(|one| one.address == "10.9.9.9"))
    });
    assert!(recorded);
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_make_no_sense_are_refused() {
    let yard = Yard::new().await;
    let lease = yard.lease(&project(24)).await;
    for bad in ["", "a/b", "a b", &"x".repeat(65)] {
        assert!(matches!(lease.connect(bad).await, Err(FleetError::Build(_))), "{bad:?}");
        assert!(matches!(lease.watch(bad).await, Err(FleetError::Build(_))), "{bad:?}");
        assert!(matches!(lease.cancel(bad, "").await, Err(FleetError::Build(_))), "{bad:?}");
    }
    yard.close().await;
}
