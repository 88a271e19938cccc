//! What the program says of a machine, and to its service manager.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use cofferdam_tests::{Context, Data, Server, program};
use serde_json::Value;

use crate::{cofferdam, know_token};

/// One of the findings about a server.
fn found<'a>(report: &'a Value, name: &str) -> &'a Value {
    let all = report["server"]["findings"].as_array().unwrap();
    let one = all.iter().find(|finding| finding["name"] == name);
    one.unwrap_or_else(|| panic!("no {name}: {report:#}"))
}

#[test]
fn a_servers_machine_and_data_are_looked_at() {
    let server = Server::secure();
    let data = server.data();
    let _ = server.project("some");
    let config = data.file("server.toml");
    let examine = || {
        let client = cofferdam("doctor --json --config").arg(&config);
        client.arg("--data-dir").arg(data.path()).run()
    };
    let report = examine().json();
    for name in ["root", "data directory", "way to the data directory", "certificate", "clock"] {
        let finding = found(&report, name);
        assert!(finding["present"] == true || finding["required"] == false, "{finding}");
    }
    let layout = found(&report, "data directory")["detail"].to_string();
    assert!(layout.contains("layout 2"), "{layout}");
    for name in ["layers on its file system (overlay)", "extended attributes"] {
        assert_eq!(found(&report, name)["present"], true, "{report:#}");
    }
    assert!(found(&report, "free space")["detail"].to_string().contains("files"));
    let table = cofferdam("doctor --data-dir").arg(data.path()).run().text();
    assert!(table.contains("\nserver\n") && table.contains("A server can"), "{table}");

    let data = server.stop();
    std::fs::write(data.path().join("layout"), "version = 99\nprogram = \"cofferdam 99\"\n")
        .unwrap();
    std::fs::write(data.file("server.pem"), "no certificate").unwrap();
    let client = cofferdam("doctor --json --config").arg(&config);
    let outcome = client.arg("--data-dir").arg(data.path()).run();
    assert_eq!(outcome.code, Some(1));
    let report = outcome.json();
    assert_eq!(report["server"]["ready"], false);
    for (name, part) in [("data directory", "layout 99"), ("certificate", "server.pem")] {
        let finding = found(&report, name);
        assert_eq!(finding["present"], false, "{finding}");
        assert!(finding["detail"].to_string().contains(part), "{finding}");
    }
}

#[test]
fn the_service_manager_hears_of_start_and_stop() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let hear = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut command = Command::new(program());
    command.env("NOTIFY_SOCKET", &path);
    let server = Server::start_as(Data::new(), "", command);
    let ready = hear();
    assert!(ready.lines().any(|line| line == "READY=1"), "{ready}");
    assert!(ready.contains(&server.url()), "{ready}");
    let _ = server.stop();
    let stopping = hear();
    assert!(stopping.lines().any(|line| line == "STOPPING=1"), "{stopping}");
    // A drain of 60 seconds, and what comes after it.
    assert!(stopping.lines().any(|line| line == "EXTEND_TIMEOUT_USEC=108000000"), "{stopping}");
}

#[test]
fn an_organization_of_before_the_first_start_keeps_its_token_out_of_the_log() {
    // Whatever mask root's shell and the service manager have.
    let masked = || {
        let mut command = Command::new("sh");
        command.args(["-c", "umask 077 && exec \"$0\" \"$@\""]).arg(program());
        command
    };
    let data = Data::new();
    let mut create = masked();
    create.args(["organization", "create", "first", "--data-dir"]).arg(data.path());
    let made = create.output().unwrap();
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success(), "{text}{}", String::from_utf8_lossy(&made.stderr));
    let mode = data.path().metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o711, "builders cannot pass: {mode:o}");
    know_token(&data, text.lines().last().unwrap());
    let server = Server::start_as(data, "", masked());
    let project = server.project("first");
    let context = Context::small();
    let _ = server.depot_build(&project, &context).success();
    assert!(!server.log().contains("shown this once"), "{}", server.log());
}

#[test]
fn looking_makes_nothing() {
    let data = Data::new();
    let create = || cofferdam("organization create first --data-dir").arg(data.path()).run();
    let _ = create().success();
    let names = || {
        let entries = std::fs::read_dir(data.path()).unwrap();
        let directories = entries.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_dir());
        directories.map(|entry| entry.file_name()).collect::<Vec<_>>()
    };
    let check = || cofferdam("check --data-dir").arg(data.path()).run();
    assert!(check().success().text().contains("nothing is wrong"));
    assert_eq!(names(), ["logs"]);
    std::fs::remove_dir(data.path().join("logs")).unwrap();
    assert!(check().failure().contains("logs is gone"));
    let doctor = cofferdam("doctor --json --data-dir").arg(data.path()).run().json();
    let finding = found(&doctor, "data directory");
    assert!(finding["detail"].to_string().contains("logs is gone"), "{finding}");
    assert!(names().is_empty());
}
