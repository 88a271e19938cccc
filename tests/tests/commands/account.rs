//! Logging in and out: where the token ends up, who may read it, what happens without one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cofferdam_tests::{Client, Server, program};

use crate::browser::Browser;
use crate::{cofferdam, wait};

/// The program as somebody at `home`, who has said nothing about servers.
fn at_home(home: &Path, args: &str) -> Client {
    Client::new(program()).at_home(home).args(args)
}

fn config(home: &Path) -> std::path::PathBuf {
    home.join("config/cofferdam/config.toml")
}

#[test]
fn a_page_is_approved_and_the_token_is_kept() {
    let server = Server::start();
    let home = tempfile::tempdir().unwrap();
    let login = at_home(home.path(), "login --server").arg(server.url()).spawn();
    let url = wait("page to approve", || {
        let said = login.said();
        said.split_whitespace().find(|word| word.starts_with(&server.url())).map(str::to_owned)
    });
    Browser::default().agree(&url, server.token());
    let said = login.finish().success().stderr;
    assert!(said.contains("Logged in to") && said.contains("default"), "{said}");
    let file = config(home.path());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("cfd_") && !kept.contains(server.token()), "a token of its own: {kept}");

    // From now on the server needs no name.
    let made = at_home(home.path(), "projects create mine --json").success().json();
    assert_eq!(made["name"], "mine");
    let listed = at_home(home.path(), "projects list").success().text();
    assert!(listed.contains("mine"), "{listed}");

    let said = at_home(home.path(), "logout").success().stderr;
    assert!(said.contains(&server.url()), "{said}");
    assert!(!std::fs::read_to_string(&file).unwrap().contains("cfd_"));
    let said = at_home(home.path(), "projects list --server").arg(server.url()).run().failure();
    assert!(said.contains("cofferdam login --server"), "{said}");
}

#[test]
fn a_token_from_standard_input_is_tried_first() {
    let server = Server::start();
    let project = server.project("p");
    let home = tempfile::tempdir().unwrap();
    let login = |token: &str| {
        let file = home.path().join("token");
        std::fs::write(&file, token).unwrap();
        let script = format!(
            "{} login --server {} --token-stdin < {}",
            program().display(),
            server.url(),
            file.display()
        );
        Client::new("sh").at_home(home.path()).arg("-c").arg(script).run()
    };
    let said = login("cfd_org_wrong\n").failure();
    assert!(said.contains("unauthenticated") && !said.contains("cfd_org_wrong"), "{said}");
    assert!(!config(home.path()).exists());
    let _ = login(&format!("{}\n", server.token())).success();
    let _ = at_home(home.path(), "projects show").arg(&project.id).success();
    // Those that may only build are stored as well.
    let _ = login(&project.token).success();
    let said = at_home(home.path(), "projects list").run();
    assert!(said.code == Some(0) || said.stderr.contains("permission_denied"), "{}", said.stderr);
    let _ = at_home(home.path(), "builds list --project").arg(&project.id).success();

    // A file that others can read is not used.
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(config(home.path()), mode).unwrap();
    let said = at_home(home.path(), "builds list").run().failure();
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn servers_that_do_not_answer_are_named() {
    let said = Client::new(program())
        .args("projects list --server http://127.0.0.1:1 --token x")
        .run()
        .failure();
    assert!(said.contains("cannot reach http://127.0.0.1:1"), "{said}");
    assert!(said.to_lowercase().contains("connection refused"), "{said}");
    let said = Client::new(program()).args("projects list --server tcp://h:1").run().failure();
    assert!(said.contains("expected http://"), "{said}");
}

#[test]
fn certificates_are_checked() {
    let server = Server::secure();
    let url = format!("https://localhost:{}", server.port());
    let list = |url: &str| {
        Client::new(program())
            .env("COFFERDAM_SERVER", url)
            .env("COFFERDAM_TOKEN", server.token())
            .args("projects list")
    };
    let authority = server.authority();
    let _ = list(&url).env("SSL_CERT_FILE", &authority).success();
    let said = list(&url).run().failure();
    assert!(said.contains("cannot reach") && said.contains("ertificate"), "{said}");
    let other = format!("https://127.0.0.2:{}", server.port());
    let _ = list(&other).env("SSL_CERT_FILE", &authority).run().failure();
    // Cleartext on the same port is somebody of this machine.
    let _ = cofferdam(&server, "projects list").success();
}
