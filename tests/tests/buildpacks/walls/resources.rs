//! What it uses up and reaches: processes, networks.

use std::net::TcpListener;

use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop};
use cofferdam_tests::http::{Response, Server, request};
use cofferdam_tests::{Context, Options, leftovers, need_root};

/// Tries to connect from a shell.
fn reach(targets: &[(&str, u16)]) -> String {
    let one = |(host, port): &(&str, u16)| {
        format!(
            "if nc -w 3 {host} {port} </dev/null >/dev/null 2>&1; then echo REACHED {host}; else echo refused {host}; fi\n"
        )
    };
    targets.iter().map(one).collect()
}

#[test]
fn metadata_services_and_the_host_are_out_of_reach() {
    let server = Server::start(|_| Response::ok("reached"));
    assert_eq!(
        request("GET", &server.url("x"), &[], b"").body,
        b"reached",
        "control: the host reaches it"
    );
    let script = reach(&[("169.254.169.254", 80), ("127.0.0.1", server.port()), ("10.0.0.1", 80)]);
    let workshop = Workshop::new();
    workshop.buildpack("hostile", &script, &script);
    let builder = workshop.image("builder", &["hostile"]);
    let app = Context::new(&[]);
    for flow in FLOWS {
        for flags in ["", "--detect-network"] {
            let outcome =
                workshop.build(&app, &builder, flow).args(flags).args("--no-cache").run().success();
            for step in [&*flow.detect("test/hostile@1.0.0"), "[build] test/hostile@1.0.0"] {
                let said = outcome.log(step);
                assert!(!said.contains("REACHED"), "{flow:?} {flags} {step}: {said}");
                assert_eq!(said.matches("refused 1").count(), 3, "{flow:?} {flags} {step}: {said}");
            }
        }
    }
    assert_eq!(server.seen().len(), 1, "only the control");
}

#[test]
fn detection_has_no_network_unless_that_is_allowed() {
    // An address of this machine, opened by a rule of the operator: the control is the build that reaches it.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").expect("this machine needs an address besides loopback");
    let own = socket.local_addr().unwrap().ip().to_string();
    let listener = TcpListener::bind((own.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.incoming().for_each(drop));

    let workshop = Workshop::with(&Options {
        config: format!("[egress]\nallow = [\"{own}:{port}\"]\n"),
        ..Options::default()
    });
    let script = format!("{}ip -o link | grep -vc ': lo:'\n", reach(&[(&own, port)]));
    workshop.buildpack("caller", &format!("{script}exit 0"), &format!("{script}true"));
    let builder = workshop.image("builder", &["caller"]);
    let app = Context::new(&[]);
    let reached = format!("REACHED {own}");
    for flow in FLOWS {
        let outcome = workshop.build(&app, &builder, flow).run().success();
        let detect = outcome.log(&flow.detect("test/caller@1.0.0"));
        assert_eq!(detect, format!("refused {own}\n0"), "only a loopback of its own");
        let build = outcome.log("[build] test/caller@1.0.0");
        assert!(build.contains(&reached), "control: {build}");
        let outcome = workshop.build(&app, &builder, flow).args("--detect-network").run().success();
        let detect = outcome.log(&flow.detect("test/caller@1.0.0"));
        assert!(detect.contains(&reached), "{detect}");
        let outcome = workshop.build(&app, &builder, flow).args("--network none").run().success();
        let build = outcome.log("[build] test/caller@1.0.0");
        assert!(!build.contains("REACHED"), "{build}");
    }
}

#[test]
fn forks_without_end_end_with_their_step() {
    need_root();
    let workshop = Workshop::with(&Options {
        config: "[isolation]\npids = 200\n".to_owned(),
        ..Options::default()
    });
    // More than fits, all of which would outlive their parent. A shell that cannot start one more ends itself.
    let bomb = "for try in $(seq 500); do sleep 600 & done; echo GOT THROUGH; exit 9";
    workshop.buildpack("bomb", "exit 0", bomb);
    let builder = workshop.image("builder", &["bomb"]);
    let app = Context::new(&[]);
    for flow in FLOWS {
        let outcome = workshop.build(&app, &builder, flow).run();
        assert_eq!(outcome.code, Some(51), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("can't fork"), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("GOT THROUGH"), "{}", outcome.stderr);
        let tree = leftovers::tree(workshop.daemon().pid());
        assert!(!tree.values().any(|name| name.contains("sleep")), "{tree:?}");
        assert!(!workshop.has(&format!("app-{}", flow.name())));
    }
    workshop.buildpack("good", "exit 0", "exit 0");
    let builder = workshop.image("good-builder", &["good"]);
    let _ = workshop.build(&app, &builder, Flow::Trusted).run().success();
}

#[test]
fn what_it_starts_ends_with_it() {
    let mark = format!("4{:06}", std::process::id() % 1_000_000);
    // In a form that does not find the search itself.
    let look =
        format!("grep -l 'sleep.[4]{}' /proc/[0-9]*/cmdline 2>/dev/null | wc -l", &mark[1..]);
    // The shell's child has its own name until it executes.
    let start = format!(
        "setsid sleep {mark} </dev/null >/dev/null 2>&1 &\n\
         for try in $(seq 100); do [ $({look}) = 0 ] || break; sleep 0.1; done\n{look}"
    );
    let workshop = Workshop::new();
    workshop.buildpack("first", &start, &start);
    workshop.buildpack("second", "exit 0", &look);
    let builder = workshop.image("builder", &["first", "second"]);
    let app = Context::new(&[]);
    for flow in FLOWS {
        let outcome = workshop.build(&app, &builder, flow).run().success();
        assert_eq!(outcome.log("[build] test/first@1.0.0"), "1", "control: it was started");
        assert_eq!(outcome.log("[build] test/second@1.0.0"), "0");
        assert!(leftovers::marked(&mark).is_empty(), "{flow:?}");
    }
}

#[test]
fn a_full_disk_ends_the_build_and_not_the_builder() {
    need_root();
    let fill = "head -c 200000000 /dev/zero > $CNB_LAYERS_DIR/fill || exit 8; rm $CNB_LAYERS_DIR/fill; echo filled";
    // Control: where there is room the same ends well.
    for disk in [Some("128m"), None] {
        let workshop = Workshop::with(&Options { disk, ..Options::default() });
        workshop.buildpack("filler", "exit 0", fill);
        workshop.buildpack("good", "exit 0", "exit 0");
        let builder = workshop.image("builder", &["filler"]);
        let good = workshop.image("good-builder", &["good"]);
        let app = Context::new(&[]);
        for flow in FLOWS {
            let outcome = workshop.build(&app, &builder, flow).run();
            assert_eq!(outcome.code == Some(0), disk.is_none(), "{disk:?}: {}", outcome.stderr);
            if disk.is_some() {
                let error = outcome.failure();
                assert!(error.contains("disk") || error.contains("No space"), "{error}");
                assert!(!workshop.has(&format!("app-{}", flow.name())));
            }
            // What it wrote is gone with it.
            let build = workshop.build_as("good", &app, &good).args("--no-cache");
            let _ = build.run().success();
        }
    }
}

/// The builder holds what it reads of a buildpack in memory, so it must not read all that a buildpack can write.
#[test]
fn many_small_files_do_not_fill_the_builders_memory() {
    let write = |count: usize| {
        format!(
            "i=0; while [ $i -lt {count} ]; do i=$((i + 1)); mkdir -p \"$CNB_LAYERS_DIR/l$i/env\"\n\
             head -c 1000000 /dev/zero | tr '\\0' x > \"$CNB_LAYERS_DIR/l$i/env/V\"; done"
        )
    };
    let app = Context::new(&[]);
    for flow in FLOWS {
        let workshop = Workshop::new();
        workshop.buildpack("few", "exit 0", &write(3));
        workshop.buildpack("many", "exit 0", &write(20));
        let _ = workshop.build(&app, &workshop.image("few", &["few"]), flow).run().success();
        let error = workshop.build(&app, &workshop.image("many", &["many"]), flow).run().failure();
        assert!(error.contains("there are more than 16777216 bytes"), "{error}");
    }
}
