//! TCP and UDP through the gate: what is allowed works, what is not is refused fast, and all of it is recorded.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::time::{Duration, Instant};

use cofferdam_egress::{Connection, Protocol};

use crate::world::{
    GATE_OUTSIDE, METADATA, PRIVATE, RESOLVER, SERVER, World, at, connect, exchange, may_run,
};

fn find<'c>(connections: &'c [Connection], address: &str, port: u16) -> &'c Connection {
    let address: std::net::IpAddr = address.parse().unwrap();
    connections
        .iter()
        .find(|c| c.address == address && c.port == port)
        .unwrap_or_else(|| panic!("{address}:{port} in {connections:#?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn echo_and_record() {
    if !may_run() {
        return;
    }
    let world = World::new(r#"{"mode":"public"}"#);
    world.serve_echo(7);
    let attachment = world.attach(0).await;
    let data: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
    let sent = data.clone();
    let back = world.in_step(move || exchange(SERVER, 7, &sent).unwrap()).await;
    assert!(back == data, "the echo is not what was sent ({} of {} bytes)", back.len(), data.len());
    let record = attachment.finish().await;
    assert!(record.complete);
    let echo = find(&record.connections, SERVER, 7);
    assert_eq!((echo.bytes_up, echo.bytes_down), (3_000_000, 3_000_000));
    assert_eq!(
        (echo.protocol, echo.denied(), echo.verdict.rule(), echo.step.as_str()),
        (Protocol::Tcp, false, "public", "RUN test")
    );
    assert!(echo.failure.is_none() && echo.duration > Duration::ZERO && echo.name.is_none());
    assert!(record.unlisted.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_destinations_are_refused_fast() {
    if !may_run() {
        return;
    }
    let world = World::new(
        r#"{"mode":"public","allow":["10.9.9.9:8000","0.0.0.0/0"],"deny":["198.51.100.3:81"]}"#,
    );
    for port in [80, 81, 53, 8000, 8001] {
        world.serve_echo(port);
    }
    let attachment = world.attach(0).await;
    let closed = [
        (METADATA, 80),
        (PRIVATE, 8001),
        (SERVER, 81),
        (RESOLVER, 53),
        (RESOLVER, 80),
        (GATE_OUTSIDE, 80),
        ("10.206.0.1", 80),
        ("127.0.0.1", 1),
        ("255.255.255.254", 80),
    ];
    for (address, port) in closed {
        let (error, took) = world
            .in_step(move || {
                let start = Instant::now();
                (connect(address, port).map(drop).unwrap_err().kind(), start.elapsed())
            })
            .await;
        assert_eq!(error, ErrorKind::ConnectionRefused, "{address}:{port}");
        assert!(took < Duration::from_secs(1), "{address}:{port} took {took:?}");
    }
    assert_eq!(world.in_step(|| exchange(PRIVATE, 8000, b"open").unwrap()).await, b"open");
    // Nobody listens there: the refusal of the outside comes through as one.
    assert_eq!(
        world.in_step(|| connect(SERVER, 9).map(drop).unwrap_err().kind()).await,
        ErrorKind::ConnectionRefused
    );
    let record = attachment.finish().await.connections;
    for (address, port) in closed.into_iter().filter(|(address, _)| *address != "127.0.0.1") {
        let connection = find(&record, address, port);
        assert!(connection.denied() && connection.bytes_up == 0, "{connection:?}");
    }
    assert!(find(&record, METADATA, 80).verdict.rule().contains("metadata"));
    assert_eq!(find(&record, SERVER, 81).verdict.rule(), "deny 198.51.100.3:81");
    assert_eq!(find(&record, RESOLVER, 53).verdict.rule(), "address of a resolver");
    assert_eq!(find(&record, GATE_OUTSIDE, 80).verdict.rule(), "address of this host");
    assert_eq!(find(&record, PRIVATE, 8000).verdict.rule(), "allow 10.9.9.9:8000");
    let refused = find(&record, SERVER, 9);
    assert!(!refused.denied() && refused.failure.as_ref().unwrap().contains("refused"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn either_half_may_close_first() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    // Talks, ends its half, and reports what it still heard on a second connection.
    let (heard, hears) = std::sync::mpsc::channel();
    world.serve(70, move |mut stream| {
        stream.write_all(b"server first").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        heard.send(rest).unwrap();
    });
    world.serve(71, |mut stream| {
        let mut request = String::new();
        stream.read_to_string(&mut request).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        stream.write_all(format!("got {request}").as_bytes()).unwrap();
    });
    let attachment = world.attach(0).await;
    world
        .in_step(|| {
            let mut stream = connect(SERVER, 70).unwrap();
            let mut greeting = String::new();
            stream.read_to_string(&mut greeting).unwrap();
            assert_eq!(greeting, "server first");
            std::thread::sleep(Duration::from_millis(100));
            stream.write_all(b"still listening?").unwrap();
            drop(stream);
            assert_eq!(exchange(SERVER, 71, b"request").unwrap(), b"got request");
        })
        .await;
    assert_eq!(hears.recv_timeout(Duration::from_secs(5)).unwrap(), "still listening?");
    for connection in attachment.finish().await.connections {
        assert!(connection.failure.is_none(), "{connection:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_travel_both_ways() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    let (seen, sees) = std::sync::mpsc::channel();
    world.serve(72, move |mut stream| {
        let mut byte = [0; 16];
        let _ = stream.read(&mut byte);
        seen.send(stream.read(&mut byte).map_err(|e| e.kind())).unwrap();
    });
    world.serve(73, |stream| {
        // A reset before the gate has even seen the connection would be a refusal.
        std::thread::sleep(Duration::from_millis(100));
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    });
    let attachment = world.attach(0).await;
    world
        .in_step(|| {
            let mut stream = connect(SERVER, 72).unwrap();
            stream.write_all(b"x").unwrap();
            std::thread::sleep(Duration::from_millis(100));
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            drop(stream);
            let mut stream = connect(SERVER, 73).unwrap();
            assert_eq!(stream.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        })
        .await;
    assert_eq!(sees.recv_timeout(Duration::from_secs(5)).unwrap(), Err(ErrorKind::ConnectionReset));
    assert!(attachment.finish().await.connections.iter().all(|c| c.failure.is_some()));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_at_once() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    world.serve_echo(7);
    let attachment = world.attach(0).await;
    world
        .in_step(|| {
            let mut streams: Vec<_> = (0..200).map(|_| connect(SERVER, 7).unwrap()).collect();
            for (i, stream) in streams.iter_mut().enumerate() {
                stream.write_all(format!("{i:05}").repeat(200).as_bytes()).unwrap();
            }
            for (i, stream) in streams.iter_mut().enumerate() {
                let mut back = [0; 1000];
                stream.read_exact(&mut back).unwrap();
                assert_eq!(back, *format!("{i:05}").repeat(200).as_bytes());
            }
        })
        .await;
    let record = attachment.finish().await;
    assert_eq!(record.connections.len(), 200);
    assert!(record.connections.iter().all(|c| c.bytes_up == 1000 && c.bytes_down == 1000));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn detaching_ends_flows() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    let (closed, closes) = std::sync::mpsc::channel();
    world.serve(74, move |mut stream| {
        let _ = stream.write_all(b"hello");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        closed.send(()).unwrap();
    });
    let attachment = world.attach(0).await;
    let stream = world
        .in_step(|| {
            let mut stream = connect(SERVER, 74).unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            stream
        })
        .await;
    assert!(attachment.connections().is_empty());
    let record = attachment.finish().await;
    closes.recv_timeout(Duration::from_secs(5)).unwrap();
    let connection = find(&record.connections, SERVER, 74);
    assert_eq!((connection.bytes_down, record.complete), (5, true));
    drop(stream);
    // The interface goes with the gate's descriptor.
    assert!(world.in_step(|| connect(SERVER, 74).is_err()).await);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams() {
    if !may_run() {
        return;
    }
    let world = World::new(r#"{"deny":["198.51.100.3:1001"]}"#);
    world.serve_udp_echo(1000);
    world.serve_udp_echo(1001);
    let attachment = world.attach(0).await;
    world
        .in_step(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let mut buffer = vec![0; 65536];
            for length in [0, 1, 1400, 9000, 60000] {
                socket.send_to(&vec![7; length], at(SERVER, 1000)).unwrap();
                let (back, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((back, from), (length, at(SERVER, 1000)));
            }
            for denied in [
                at(SERVER, 1001),
                at(SERVER, 1001),
                at(METADATA, 80),
                at(RESOLVER, 53),
                at("10.206.0.1", 54),
            ] {
                socket.send_to(b"x", denied).unwrap();
            }
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            assert!(socket.recv_from(&mut buffer).is_err());
        })
        .await;
    let record = attachment.finish().await;
    let echo = find(&record.connections, SERVER, 1000);
    assert_eq!((echo.protocol, echo.bytes_up, echo.bytes_down), (Protocol::Udp, 70401, 70401));
    for (address, port) in [(SERVER, 1001), (METADATA, 80), (RESOLVER, 53), ("10.206.0.1", 54)] {
        assert!(find(&record.connections, address, port).denied());
    }
    assert_eq!(
        (record.connections.len(), record.unlisted.denied),
        (5, 1),
        "a repeated refusal is counted, not listed"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_privileges_and_other_descriptors() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    let file = tempfile::tempfile().unwrap();
    let refused = world.gate.as_ref().unwrap().attach(file.into(), "odd").await.unwrap_err();
    assert!(refused.to_string().contains("neither a TUN"), "{refused}");
    let pid = world.gate_pid();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses: Vec<String> = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())
        .collect();
    assert!(statuses.iter().all(|status| status.contains("Uid:\t54321\t54321\t54321")));
    let confined = |status: &&String| {
        ["CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"]
            .iter()
            .all(|line| status.contains(line))
    };
    assert!(statuses.iter().any(|status| confined(&status)), "{statuses:?}");
    world.end().await;
}

/// Processor time of a process so far, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_flows_cost_no_processor_time() {
    if !may_run() {
        return;
    }
    let world = World::new("{}");
    world.serve(76, |_stream| std::thread::sleep(Duration::from_secs(20)));
    world.serve(77, |stream| {
        stream.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_secs(20));
    });
    world.serve(78, |mut stream| drop(stream.write_all(&vec![0; 64 << 20])));
    let attachment = world.attach(0).await;
    let streams = world
        .in_step(|| {
            let mut streams = Vec::new();
            for port in [76, 77, 78] {
                streams.extend((0..10).map(|_| connect(SERVER, port).unwrap()));
            }
            // And some whose writer waits for a reader outside.
            for _ in 0..5 {
                let mut stream = connect(SERVER, 76).unwrap();
                stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
                while stream.write(&[0; 65536]).is_ok() {}
                streams.push(stream);
            }
            streams
        })
        .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = ticks(world.gate_pid());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = ticks(world.gate_pid()) - before;
    assert!(used < 20, "the gate used {used} ticks in two idle seconds");
    drop(streams);
    drop(attachment);
    world.end().await;
}
