//! The builder's own traffic: what the operator vouches for is open to it and to nobody else, and long connections are recorded
//! in parts.

use std::io::{Read, Write};

use crate::world::{METADATA, PRIVATE, SERVER, World, connect, exchange, may_run};

const POLICY: &str = r#"{"mode":"list","vouched":["10.9.9.9:8000","198.51.100.3:81"]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_vouched_for_is_the_builders_alone() {
    if !may_run() {
        return;
    }
    let reached = |address: &'static str, port| move || exchange(address, port, b"x").is_ok();
    for builder in [true, false] {
        let world = World::new(POLICY);
        for port in [80, 81, 8000, 8001] {
            world.serve_echo(port);
        }
        let attachment = if builder { world.attach_builder().await } else { world.attach(0).await };
        assert_eq!(world.in_step(reached(PRIVATE, 8000)).await, builder);
        assert_eq!(world.in_step(reached(SERVER, 81)).await, builder);
        for (address, port) in [(PRIVATE, 8001), (METADATA, 80), (SERVER, 80)] {
            assert!(!world.in_step(reached(address, port)).await, "{address}:{port}");
        }
        let record = attachment.finish().await;
        let allowed = record.connections.iter().filter(|one| !one.denied()).count();
        assert_eq!(allowed, if builder { 2 } else { 0 }, "{:#?}", record.connections);
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_is_recorded_in_parts() {
    if !may_run() {
        return;
    }
    let world = World::new(r#"{"mode":"public"}"#);
    world.serve_echo(7);
    let attachment = world.attach_builder().await;
    let mut stream = world.in_step(|| connect(SERVER, 7).unwrap()).await;
    let mut sent = Vec::new();
    for size in [1000, 0, 234] {
        let mut stream = stream.try_clone().unwrap();
        let moved = tokio::task::spawn_blocking(move || {
            stream.write_all(&vec![b'x'; size]).unwrap();
            stream.read_exact(&mut vec![0; size]).unwrap();
        });
        moved.await.unwrap();
        let record = attachment.take().await;
        assert!(record.complete);
        sent.extend(record.connections.iter().map(|one| (one.bytes_up, one.bytes_down)));
    }
    // Nothing new is nothing to report.
    assert_eq!(sent, [(1000, 1000), (234, 234)]);
    stream.write_all(b"abc").unwrap();
    stream.read_exact(&mut [0; 3]).unwrap();
    drop(stream);
    let rest = attachment.finish().await.connections;
    let rest: Vec<_> = rest.iter().map(|one| (one.bytes_up, one.bytes_down)).collect();
    assert_eq!(rest, [(3, 3)]);
    world.end().await;
}
