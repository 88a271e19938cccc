//! How fast the gate moves bytes, next to a direct socket over the same path. Prints, and asserts nothing about time.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use crate::world::{SERVER, World, connect, may_run};

const BYTES: usize = 500_000_000;
const BLOCK: usize = 256 << 10;

fn upload() -> f64 {
    let start = Instant::now();
    let mut stream = connect(SERVER, 90).unwrap();
    let block = vec![5; BLOCK];
    let mut left = BYTES;
    while left > 0 {
        left -= stream.write(&block[..left.min(BLOCK)]).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 1);
    BYTES as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn download() -> f64 {
    let start = Instant::now();
    let mut stream = connect(SERVER, 91).unwrap();
    let mut block = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match stream.read(&mut block).unwrap() {
            0 => break,
            length => total += length,
        }
    }
    assert_eq!(total, BYTES);
    BYTES as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn servers(world: &World) {
    world.serve(90, |mut stream| {
        let mut block = vec![0; BLOCK];
        let mut total = 0;
        while let Ok(length @ 1..) = stream.read(&mut block) {
            total += length;
        }
        assert_eq!(total, BYTES);
        stream.write_all(&[1]).unwrap();
    });
    world.serve(91, |mut stream| {
        let block = vec![6; BLOCK];
        let mut left = BYTES;
        while left > 0 {
            left -= stream.write(&block[..left.min(BLOCK)]).unwrap();
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn measured() {
    if !may_run() {
        return;
    }
    for (name, flags) in [("plain TUN", 0), ("TUN with IFF_VNET_HDR", libc::IFF_VNET_HDR)] {
        let world = World::new("{}");
        servers(&world);
        let attachment = world.attach(flags).await;
        let (up, down) = world.in_step(|| (upload(), download())).await;
        let (direct_up, direct_down) = world.inner.run(|| (upload(), download()));
        let (loop_up, loop_down) = world.outer.run(|| (upload(), download()));
        println!(
            "{name}: gate up {up:.0} MB/s, down {down:.0} MB/s; veth up {direct_up:.0}, down {direct_down:.0}; loopback up {loop_up:.0}, down {loop_down:.0}"
        );
        let record = attachment.finish().await;
        assert_eq!(record.connections.iter().map(|c| c.bytes_up).sum::<u64>(), BYTES as u64);
        assert_eq!(record.connections.iter().map(|c| c.bytes_down).sum::<u64>(), BYTES as u64 + 1);
        world.end().await;
    }
}
