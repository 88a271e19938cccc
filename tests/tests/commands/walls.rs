//! Walls of projects and builds: levels of isolation, network policies, limits.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

use cofferdam_tests::{Context, Data, Outcome, Server, need_root};

use crate::cofferdam;

fn projects(server: &Server, args: &str) -> Outcome {
    cofferdam(server, &format!("projects {args}")).run()
}

fn policy(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn walls_of_a_project_are_set_shown_and_taken_back() {
    let server = Server::start();
    let file = policy("mode = \"list\"\nallow = [\"*.packages.example:443\", \"10.0.0.0/8\"]\n");
    let made = projects(
        &server,
        &format!(
            "create walled --isolation vm --limit step.memory=1GB --limit step.time=1h --network-policy {} --json",
            file.path().display()
        ),
    )
    .success()
    .json();
    let id = made["id"].as_str().unwrap();
    let settings = &made["settings"];
    assert_eq!(
        (&settings["isolation"], &settings["least_isolation"]),
        (&"vm".into(), &"vm".into())
    );
    assert_eq!(settings["network_policy"]["allow"][0], "*.packages.example:443");
    assert_eq!(settings["limits"]["step_memory"], 1_000_000_000);
    // What is not named stays.
    let _ =
        projects(&server, &format!("update {id} --limit step.time=0 --limit builds=2")).success();
    let shown = projects(&server, &format!("show {id}")).success().text();
    for part in [
        "isolation     vm\n",
        "network       list; allow *.packages.example:443, 10.0.0.0/8\n",
        "limits        step.memory=1000000000B, builds=2\n",
    ] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    let back = "--isolation none --network-policy none --limit none";
    let shown = projects(&server, &format!("update {id} {back}")).success().text();
    assert!(shown.contains("isolation     namespaces (the server's)\n"), "{shown}");
    assert!(shown.contains("network       the server's\n"), "{shown}");
    assert!(shown.contains("limits        the server's\n"), "{shown}");
    // A project's own token reads them and changes nothing.
    let project = server.project("other");
    let with = |args: &str| crate::with_token(&server, &project.token, args).arg(&project.id).run();
    let _ = with("projects show").success();
    assert!(with("projects update --isolation gvisor").failure().contains("permission_denied"));
}

#[test]
fn walls_without_sense_are_refused() {
    let server = Server::start();
    let project = server.project("p");
    let open = policy("mode = \"open\"\n");
    let resolvers = policy("resolvers = [\"192.0.2.1\"]\n");
    let rule = policy("mode = \"list\"\nallow = [\"10.0.0.1/8\"]\n");
    for (args, part) in [
        ("--isolation strong".to_owned(), "namespaces, gvisor or vm"),
        ("--limit step.time".to_owned(), "KEY=VALUE"),
        ("--limit step.tme=1h".to_owned(), "tme"),
        ("--limit step.memory=10%".to_owned(), "share"),
        ("--network-policy /no/such/file".to_owned(), "/no/such/file"),
        (format!("--network-policy {}", open.path().display()), "open"),
        (format!("--network-policy {}", resolvers.path().display()), "resolvers"),
        (format!("--network-policy {}", rule.path().display()), "10.0.0.1/8"),
    ] {
        let said = projects(&server, &format!("update {} {args}", project.id)).failure();
        assert!(said.contains(part), "{args}: {said}");
    }
    let call = |body: serde_json::Value| {
        server.call("cofferdam.server.v1.ProjectService/UpdateSettings", &body).code().to_owned()
    };
    let id = &project.id;
    for body in [
        serde_json::json!({ "projectId": id, "isolation": "strong" }),
        serde_json::json!({ "projectId": id, "networkPolicy": { "mode": "open" } }),
        serde_json::json!({ "projectId": id, "networkPolicy": { "mode": "list", "allow": ["a b"] } }),
        serde_json::json!({ "projectId": id, "limits": { "stepCpus": -1.0 } }),
    ] {
        assert_eq!(call(body.clone()), "invalid_argument", "{body}");
    }
}

#[test]
fn builds_run_within_the_limits_of_their_project_and_of_the_server() {
    let server = Server::start_in(Data::new(), "[builder.limits]\nstep.time = \"4s\"\n");
    let project = server.project("limited");
    let takes = |seconds: f64| {
        let context = Context::dockerfile(&format!("FROM @busybox\nRUN sleep {seconds}\n"));
        server.build(&project, &context).arg("--no-cache").run()
    };
    let _ = takes(1.5).success();
    let _ = projects(&server, &format!("update {} --limit step.time=1s", project.id)).success();
    // The builder that runs is idle: the next build gets a new one.
    let said = takes(1.5).failure();
    assert!(said.contains("it ran longer than 1s (limits.step.time)"), "{said}");
    // A project cannot have more than the server gives.
    let _ = projects(&server, &format!("update {} --limit step.time=1h", project.id)).success();
    let said = takes(30.0).failure();
    assert!(said.contains("it ran longer than 4s (limits.step.time)"), "{said}");
}

/// Answers on an address of this machine that others reach it by.
fn answering(address: &str) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().write_all(b"here").ok();
        }
    });
    port
}

fn own_address() -> String {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Sends nothing: it only chooses a route.
    socket.connect("192.0.2.1:9").expect("this machine needs an address besides loopback");
    socket.local_addr().unwrap().ip().to_string()
}

#[test]
fn builds_reach_what_their_project_and_the_server_allow() {
    let own = own_address();
    let ports = [answering(&own), answering(&own), answering(&own)];
    let [both, server_alone, project_alone] = ports;
    let config = format!(
        "[builder.egress]\nvouched = [\"127.0.0.1\"]\nallow = [\"{own}:{both}\", \"{own}:{server_alone}\"]\n"
    );
    let server = Server::start_in(Data::new(), &config);
    let project = server.project("walled");
    let tries: Vec<String> = ports
        .iter()
        .map(|port| format!("if nc -w 3 {own} {port} </dev/null; then echo REACHED {port}; fi"))
        .collect();
    let context = Context::dockerfile(&format!("FROM @busybox\nRUN {}\n", tries.join("; ")));
    let reached = || {
        let said = server.build(&project, &context).arg("--no-cache").run().success().log("RUN ");
        let reached = |port: &&u16| said.contains(&format!("REACHED {port}"));
        ports.iter().filter(reached).copied().collect::<Vec<u16>>()
    };
    assert_eq!(reached(), [both, server_alone], "control: the server's policy alone");
    let file = policy(&format!(
        "mode = \"list\"\nallow = [\"{own}:{both}\", \"{own}:{project_alone}\"]\n"
    ));
    let set = |policy: &str| {
        let _ = projects(&server, &format!("update {} --network-policy {policy}", project.id))
            .success();
    };
    set(&file.path().display().to_string());
    assert_eq!(reached(), [both]);
    let file = policy("mode = \"off\"\n");
    set(&file.path().display().to_string());
    assert_eq!(reached(), Vec::<u16>::new());
    set("none");
    assert_eq!(reached(), [both, server_alone]);
}

/// What the kernel of a step says it is.
fn kernel() -> Context {
    Context::dockerfile("FROM @busybox\nRUN cat /proc/version\n")
}

fn is_of_this_machine(outcome: &Outcome) -> bool {
    outcome.log("RUN ").trim() == std::fs::read_to_string("/proc/version").unwrap().trim()
}

#[test]
fn a_build_is_as_isolated_as_anybody_demands() {
    need_root();
    let server = Server::start();
    let project = server.project("levels");
    let build = |args: &str| {
        let outcome =
            server.build(&project, &kernel()).args("--no-cache").args(args).run().success();
        let id = server.newest_id(&project);
        let shown = cofferdam(&server, &format!("builds show {id} --json")).success().json();
        (is_of_this_machine(&outcome), shown["isolation"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(build(""), (true, "namespaces".into()), "control: the machine's own kernel");
    assert_eq!(build("--isolation gvisor"), (false, "gvisor".into()));
    assert_eq!(build(""), (true, "namespaces".into()), "one build's demand is its own");
    let _ = projects(&server, &format!("update {} --isolation gvisor", project.id)).success();
    assert_eq!(build(""), (false, "gvisor".into()));
    assert_eq!(build("--isolation namespaces"), (false, "gvisor".into()), "nothing is lowered");
    // Each level has ids and a store of its own, and both go with the project.
    let home = server.data().path().join("projects").join(&project.id);
    let owner = |name: &str| std::fs::metadata(home.join(name).join("store")).unwrap().uid();
    assert_ne!(owner("builder"), owner("builder-gvisor"));
    let _ = projects(&server, &format!("delete --yes {}", project.id)).success();
    crate::wait("end of the stores", || (!home.exists()).then_some(()));
}

#[test]
fn a_level_that_cannot_be_had_refuses_the_build() {
    need_root();
    // The server finds no runsc, whether or not this machine has one.
    let server =
        Server::start_without(Data::new(), "", &["/usr/bin/runsc", "/usr/local/bin/runsc"]);
    let project = server.project("refused");
    let _ = server.build(&project, &kernel()).run().success();
    let said = server.build(&project, &kernel()).args("--isolation gvisor").run().failure();
    assert!(said.contains("isolation level gvisor") && said.contains("cofferdam doctor"), "{said}");
    let _ = projects(&server, &format!("update {} --isolation gvisor", project.id)).success();
    let said = server.build(&project, &kernel()).run().failure();
    assert!(said.contains("isolation level gvisor"), "{said}");
    let said = server.build(&project, &kernel()).args("--isolation namespaces").run().failure();
    assert!(said.contains("isolation level gvisor"), "{said}");
    assert!(server.log().contains("runsc"), "the server's log says why: {}", server.log());
    let _ = projects(&server, &format!("update {} --isolation none", project.id)).success();
    let _ = server.build(&project, &kernel()).run().success();
}

#[test]
fn the_servers_own_level_is_the_least() {
    need_root();
    let hidden = ["/usr/bin/runsc", "/usr/local/bin/runsc"];
    let config = "[builder.isolation]\nlevel = \"gvisor\"\n";
    let server = Server::start_without(Data::new(), config, &hidden);
    let project = server.project("p");
    let shown = projects(&server, &format!("update {} --isolation namespaces", project.id));
    let shown = shown.success().text();
    assert!(shown.contains("gvisor (the server's; the project's own is namespaces)"), "{shown}");
    let said = server.build(&project, &kernel()).run().failure();
    assert!(said.contains("isolation level gvisor"), "{said}");
}
