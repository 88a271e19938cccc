//! What a step reaches: nothing but public addresses, or nothing at all.

use cofferdam_tests::http::{Response, Server, request};
use cofferdam_tests::{Builder, Context, Options};

/// Tries to connect to each address and port from a step; gives those that answered. Not with busybox's wget: as a static program
/// it needs libraries for looking names up.
fn try_to_reach(builder: &Builder, targets: &[(&str, u16)]) -> Vec<String> {
    let one = |(host, port): &(&str, u16)| {
        format!(
            "if nc -w 3 {host} {port} </dev/null >/dev/null 2>&1; then echo REACHED {host}; else echo refused; fi"
        )
    };
    let tries: Vec<String> = targets.iter().map(one).collect();
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN {}\n", tries.join("; ")));
    let outcome = builder.build(&context).args("--no-cache").run().success();
    let log = outcome.step("RUN ").log;
    // The gate adds a line about each refusal.
    let answers = log.iter().filter(|line| line.starts_with("REACHED") || *line == "refused");
    assert_eq!(answers.count(), targets.len(), "{log:?}");
    log.into_iter().filter(|line| line.starts_with("REACHED")).collect()
}

/// An address of this machine that others reach it by; none on a machine without network.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only chooses a route.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

#[test]
fn loopback_private_and_metadata_addresses_are_refused() {
    let builder = Builder::plain();
    let server = Server::start(|_| Response::ok("reached"));
    assert_eq!(
        request("GET", &server.url("control"), &[], b"").body,
        b"reached",
        "control: the host reaches it"
    );
    let port = server.port();
    let own = own_address();
    let mut targets = vec![
        ("127.0.0.1", port),
        ("localhost", port),
        ("::1", port),
        ("0.0.0.0", port),
        ("10.206.0.1", port),
    ];
    targets.extend(
        ["169.254.169.254", "10.0.0.1", "192.168.0.1", "metadata.google.internal"]
            .map(|host| (host, 80)),
    );
    targets.extend(own.as_deref().map(|own| (own, port)));
    assert_eq!(try_to_reach(&builder, &targets), Vec::<String>::new());
    assert_eq!(server.seen().len(), 1, "only the control");
}

#[test]
fn a_rule_opens_exactly_what_it_names() {
    let own = own_address().expect("this machine needs an address besides loopback");
    // The server listens on loopback; a second one is wanted on the address that the rule names.
    let listener = std::net::TcpListener::bind((own.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nopened").ok();
        }
    });
    let closed = Builder::plain();
    assert!(try_to_reach(&closed, &[(&own, port)]).is_empty());
    let open = Builder::start(&Options {
        config: format!("[egress]\nallow = [\"{own}:{port}\"]\n"),
        ..Options::default()
    });
    let reached = try_to_reach(&open, &[(&own, port), (&own, port + 1), ("127.0.0.1", port)]);
    assert_eq!(reached, [format!("REACHED {own}")], "this port and no other");
}

#[test]
fn without_network_there_is_only_an_own_loopback() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox\nRUN --network=none ip -o link | awk -F': ' '{print $2}' | tr '\\n' ' '; ip route | wc -l; nc -w 2 1.1.1.1 80 </dev/null 2>/dev/null && echo REACHED; \
         (echo hi | nc -l -p 7777 >/dev/null &) ; sleep 0.2; echo x | nc -w 1 127.0.0.1 7777\n",
    );
    let log = builder.build(&context).run().success().log("RUN ");
    assert!(log.starts_with("lo ") && !log.contains("eth") && !log.contains("REACHED"), "{log}");
    assert!(log.contains("hi"), "its own loopback works: {log}");
    let forced = Context::dockerfile("FROM @busybox\nRUN ip -o link | grep -vc ' lo'\n");
    let outcome = builder.build(&forced).args("--network none").run();
    assert!(outcome.stderr.contains(" 0\n"), "{}", outcome.stderr);
}

/// The host of the first package source of this machine, which has to be reachable for the tests
/// to be set up at all.
fn package_host() -> String {
    let mut files = vec![std::path::PathBuf::from("/etc/apt/sources.list")];
    files.extend(
        std::fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path()),
    );
    files.sort();
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    let hosts = texts.flat_map(|text| {
        let lines =
            text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
        let urls = lines.filter_map(|line| line.split("://").nth(1).map(str::to_owned));
        urls.filter_map(|url| url.split(['/', ' ']).next().map(str::to_owned)).collect::<Vec<_>>()
    });
    let hosts: Vec<String> = hosts.collect();
    let debian = hosts.iter().find(|host| host.contains("debian"));
    debian.or(hosts.first()).expect("a package source").clone()
}

#[test]
fn package_registries_are_reached_through_the_default_network() {
    let host = package_host();
    // Control: the machine itself has a way out.
    let addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host.as_str(), 80)).unwrap();
    let patience = std::time::Duration::from_secs(3);
    let mut tries = addresses.map(|at| std::net::TcpStream::connect_timeout(&at, patience));
    assert!(tries.any(|tried| tried.is_ok()), "this machine has to reach {host} directly");
    let builder = Builder::plain();
    let context = Context::dockerfile(&format!(
        "FROM @busybox\nRUN nc -w 5 {host} 80 </dev/null && echo connected\n"
    ));
    let outcome = builder.build(&context).run().success();
    assert_eq!(outcome.log("RUN "), "connected");
}
