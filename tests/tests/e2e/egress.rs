//! What the builder itself reaches: its pulls, pushes and downloads are under the policy of its project, and in its records.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cofferdam_tests::{Builder, Context, Options, Registry, images};

/// An address of this machine that is neither public nor loopback.
fn own_address() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only chooses a route.
    socket.connect("192.0.2.1:9").expect("this machine needs an address besides loopback");
    socket.local_addr().unwrap().ip().to_string()
}

/// Serves each connection to that address on a thread, and counts them.
fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (count, handle) = (Arc::new(AtomicUsize::new(0)), Arc::new(handle));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            let handle = Arc::clone(&handle);
            std::thread::spawn(move || handle(stream));
        }
    });
    (port, count)
}

fn answer(mut stream: TcpStream, answer: &str) {
    let _ = stream.read(&mut [0; 4096]);
    stream.write_all(answer.as_bytes()).ok();
}

const FOUND: &str = "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nfound";

fn with(config: String) -> Builder {
    Builder::start(&Options { config, ..Options::default() })
}

#[test]
fn downloads_and_their_redirects_follow_the_policy() {
    let own = own_address();
    let (inner, reached) = serve(|stream| answer(stream, FOUND));
    let to = format!("HTTP/1.0 302 Found\r\nLocation: http://{own}:{inner}/file\r\n\r\n");
    let (outer, redirected) = serve(move |stream| answer(stream, &to));
    let add =
        |port| Context::dockerfile(&format!("FROM scratch\nADD http://{own}:{port}/file /\n"));

    let error = Builder::plain().build(&add(inner)).run().failure();
    assert!(error.contains("egress policy refused") && error.contains(&own), "{error}");
    assert_eq!(reached.load(Ordering::SeqCst), 0);

    let first_only = with(format!("[egress]\nallow = [\"{own}:{outer}\"]\n"));
    let error = first_only.build(&add(outer)).run().failure();
    assert!(error.contains(&format!("({own} port {inner})")), "{error}");
    assert!(redirected.load(Ordering::SeqCst) > 0, "control: the redirect was followed");
    assert_eq!(reached.load(Ordering::SeqCst), 0, "to where it leads");

    let both = with(format!("[egress]\nallow = [\"{own}:{outer}\", \"{own}:{inner}\"]\n"));
    let _ = both.build(&add(outer)).run().success();
    assert!(reached.load(Ordering::SeqCst) > 0);
    assert!(both.log().contains(&format!("address={own} port={inner}")), "it is recorded");
}

#[test]
fn what_is_cancelled_is_recorded_too() {
    // It sends the beginning and then nothing.
    let (port, reached) = serve(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbegun").ok();
        std::thread::sleep(Duration::from_secs(60));
    });
    let own = own_address();
    let builder = with(format!("[egress]\nallow = [\"{own}:{port}\"]\n"));
    let context = Context::dockerfile(&format!("FROM scratch\nADD http://{own}:{port}/f /\n"));
    let build = builder.build(&context).spawn();
    let wait = |what: &dyn Fn() -> bool| {
        (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(50));
            what()
        })
    };
    assert!(wait(&|| reached.load(Ordering::SeqCst) > 0));
    build.interrupt();
    let connection = format!("address={own} port={port}");
    assert!(wait(&|| builder.log().contains(&connection)), "{}", builder.log());
    let line = builder.log().lines().find(|line| line.contains(&connection)).map(str::to_owned);
    assert!(line.is_some_and(|line| line.contains("step=\"sha256:")), "with its step");
}

#[test]
fn repositories_follow_the_policy() {
    let (port, reached) = serve(|stream| answer(stream, FOUND));
    let url = format!("http://{}:{port}/x.git", own_address());
    let context = Context::dockerfile(&format!("FROM scratch\nADD {url} /\n"));
    let error = Builder::plain().build(&context).run().failure();
    assert!(error.contains("egress policy refused"), "{error}");
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    let open = with(format!("[egress]\nallow = [\"{}:{port}\"]\n", own_address()));
    let error = open.build(&context).run().failure();
    assert!(!error.contains("egress policy"), "control: another reason, {error}");
    assert!(reached.load(Ordering::SeqCst) > 0);
}

#[test]
fn a_private_registry_is_opened_to_the_builder_and_to_no_step() {
    let inside = images::registry().address().to_owned();
    let base = images::busybox();
    // The registry itself listens on loopback.
    let (port, reached) = serve(move |stream| forward(stream, &inside));
    let host = format!("{}:{port}", own_address());
    let probe = format!("nc -w 3 {} {port} </dev/null && echo GOT THROUGH; true", own_address());
    let base = base.replace(images::registry().address(), &host);
    let context = Context::dockerfile(&format!("FROM {base}\nRUN {probe}\n"));

    let error = Builder::plain().build(&context).run().failure();
    assert!(error.contains("egress policy refused"), "{error}");
    assert_eq!(reached.load(Ordering::SeqCst), 0);

    // Naming the registry in the configuration is the operator's word.
    for mode in ["public", "off"] {
        let builder =
            with(format!("[registry.\"{host}\"]\nhttp = true\n[egress]\nmode = \"{mode}\"\n"));
        let outcome = builder.build(&context).args("--no-cache").run().success();
        let log = outcome.log("RUN ");
        assert!(!log.contains("GOT THROUGH"), "{mode}: {log}");
        assert!(log.contains("egress policy refused"), "{mode}: {log}");
    }
    assert!(reached.load(Ordering::SeqCst) > 0);
}

#[test]
fn the_command_line_is_the_operators_word_and_a_dockerfile_is_not() {
    let registry = Registry::start();
    let state = tempfile::tempdir().unwrap();
    let build = |dockerfile: &str, arguments: &str| {
        let context = Context::dockerfile(dockerfile);
        let build = cofferdam_tests::Build::new(None, context.path().to_str().unwrap());
        let root = state.path().join("root");
        let build = build.args(arguments).arg("--root").arg(root);
        build.env("COFFERDAM_ALLOW_REGISTRY", "").run()
    };
    let push = format!("--push -t {}/pushed", registry.address());
    let _ = build("FROM scratch\nLABEL a=b\n", &push).success();
    assert!(registry.manifest("pushed", "latest").is_some());
    let from = format!("FROM {}\n", images::busybox());
    let error = build(&from, "").failure();
    assert!(error.contains("egress policy refused"), "{error}");
    let allowed = format!("--allow-registry {}", images::registry().address());
    let _ = build(&from, &allowed).success();
}

fn forward(from: TcpStream, to: &str) {
    let to = TcpStream::connect(to).unwrap();
    let (mut from_read, mut to_write) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let up = std::thread::spawn(move || {
        std::io::copy(&mut from_read, &mut to_write).ok();
        to_write.shutdown(std::net::Shutdown::Write).ok();
    });
    let (mut to, mut from) = (to, from);
    std::io::copy(&mut to, &mut from).ok();
    from.shutdown(std::net::Shutdown::Write).ok();
    up.join().ok();
}
