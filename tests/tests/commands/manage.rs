//! Projects, tokens, trust policies and usage.

use cofferdam_tests::Server;

use crate::{cofferdam, with_token};

#[test]
fn the_life_of_a_project() {
    let server = Server::start();
    let made = cofferdam(
        &server,
        "projects create first --region eu-central-1 --hardware 4x8 --keep-days 3 --json",
    )
    .success()
    .json();
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["region"], &made["hardware"]), (&"eu-central-1".into(), &"4x8".into()));
    assert_eq!(made["cache"], serde_json::json!({ "keep_gb": 50, "keep_days": 3 }));
    let _ = cofferdam(&server, "projects create second").success();

    let table = cofferdam(&server, "projects list").success().text();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID") && lines.len() == 3, "{table}");
    assert!(lines[1].ends_with("second") && lines[2].ends_with("first"), "newest first: {table}");
    assert!(lines[2].starts_with(id) && lines[2].contains("50 GB, 3 days"), "{table}");
    let one = cofferdam(&server, "projects list --limit 1").success();
    assert_eq!(one.text().lines().count(), 2);
    assert!(one.stderr.contains("--all"), "{}", one.stderr);
    let all = cofferdam(&server, "projects list --all --json").success().json();
    assert_eq!(all.as_array().unwrap().len(), 2);

    // What is not named stays, also the other limit of the cache.
    let changed = cofferdam(&server, "projects update --keep-gb 7 --name renamed --json --project")
        .arg(id)
        .success()
        .json();
    assert_eq!(changed["cache"], serde_json::json!({ "keep_gb": 7, "keep_days": 3 }));
    assert_eq!((&changed["name"], &changed["hardware"]), (&"renamed".into(), &"4x8".into()));
    let shown = cofferdam(&server, "projects show").arg(id).success().text();
    assert!(shown.contains("renamed") && shown.contains("7 GB, 3 days"), "{shown}");
    let said = cofferdam(&server, "projects update").arg(id).run().failure();
    assert!(said.contains("nothing to change"), "{said}");

    let said = cofferdam(&server, "projects reset").arg(id).success().stderr;
    assert!(said.contains(id), "{said}");
    let said = cofferdam(&server, "projects delete").arg(id).run().failure();
    assert!(said.contains("--yes"), "{said}");
    let _ = cofferdam(&server, "projects delete --yes").arg(id).success();
    let said = cofferdam(&server, "projects show").arg(id).run().failure();
    assert!(said.contains("not_found"), "{said}");
}

#[test]
fn arguments_without_sense_are_said() {
    let server = Server::start();
    for (args, code) in [
        ("projects create x --hardware 3x3", 2),
        ("projects create x --keep-gb -1", 2),
        ("projects list --limit 0", 2),
        ("projects list --limit 1 --all", 2),
        ("builds logs x --step zero", 2),
        ("trust add github nobody --project x", 1),
        ("tokens list", 1),
        ("usage --start yesterday", 1),
        ("builds show nonesuch", 1),
    ] {
        let outcome = cofferdam(&server, args).run();
        assert_eq!(outcome.code, Some(code), "{args}: {}", outcome.stderr);
        assert!(outcome.stdout.is_empty(), "{args}: {}", outcome.text());
    }
}

#[test]
fn names_and_errors_control_nothing() {
    let server = Server::start();
    let project = server.project("hostile");
    let hostile = "\u{1b}[2J\u{9b}x\u{202e}";
    let controls = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
    // Whether a server takes such names is its own affair.
    let named = cofferdam(&server, "projects create").arg(hostile).run();
    let described =
        cofferdam(&server, "tokens create --project").arg(&project.id).arg(hostile).run();
    let missing = cofferdam(&server, "projects show").arg(hostile).run();
    for args in ["projects list", "projects list --json", "tokens list --project"] {
        let listed = cofferdam(&server, args);
        let listed = if args.ends_with("project") { listed.arg(&project.id) } else { listed };
        let listed = listed.success().text();
        assert!(!listed.contains(controls), "{args}: {listed:?}");
    }
    for outcome in [named, described, missing] {
        assert!(!outcome.text().contains(controls), "{:?}", outcome.text());
        assert!(!outcome.stderr.contains(controls), "{:?}", outcome.stderr);
    }
}

#[test]
fn tokens_are_good_until_they_are_deleted() {
    let server = Server::start();
    let project = server.project("tokens");
    let tokens = |args: &str| cofferdam(&server, args).arg("--project").arg(&project.id);
    let made = tokens("tokens create deploy").success();
    let secret = made.text().trim().to_owned();
    assert!(secret.starts_with("cfd_project_") && made.text().lines().count() == 1);
    let listed = tokens("tokens list --json").success().json();
    let token = listed.as_array().unwrap().iter().find(|one| one["description"] == "deploy");
    let id = token.unwrap()["id"].as_str().unwrap();
    assert!(made.stderr.contains(id), "{}", made.stderr);

    let builds = || with_token(&server, &secret, "builds list --project").arg(&project.id);
    assert!(builds().success().stderr.contains("No builds"));
    let _ = cofferdam(&server, "tokens update").arg(id).arg("other words").success();
    assert!(tokens("tokens list").success().text().contains("other words"));
    let _ = cofferdam(&server, "tokens delete").arg(id).success();
    assert!(builds().run().failure().contains("unauthenticated"));
}

#[test]
fn who_is_trusted() {
    let server = Server::start();
    let project = server.project("trust");
    let trust = |args: &str| cofferdam(&server, args).arg("--project").arg(&project.id).success();
    assert!(trust("trust list").stderr.contains("trusts nobody"));
    let made = trust("trust add github acme/shop --json").json();
    assert_eq!(made["provider"]["kind"], "github");
    let _ = trust(
        "trust add circleci 11111111-1111-4111-8111-111111111111 22222222-2222-4222-8222-222222222222",
    );
    let _ = trust("trust add buildkite acme shop-pipeline");
    let table = trust("trust list").text();
    for part in ["acme/shop\n", "acme/shop-pipeline", "11111111-1111-4111-8111-111111111111/2222"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let _ = trust(&format!("trust remove {}", made["id"].as_str().unwrap()));
    assert_eq!(trust("trust list --json").json().as_array().unwrap().len(), 2);
}

#[test]
fn what_was_used() {
    let server = Server::start();
    let project = server.project("used");
    let table = cofferdam(&server, "usage").success().text();
    assert!(table.starts_with("PROJECT") && table.contains(&project.id), "{table}");
    let one = cofferdam(&server, "usage --start 2020-01-01 --json --project").arg(&project.id);
    let one = one.success().json();
    assert_eq!(one["projects"][0]["builds"], 0, "{one}");
    assert_eq!(one["start"], "2020-01-01T00:00:00Z");
    assert!(one.get("organization").is_none(), "{one}");
    assert_eq!(one["storage"][0]["cache"]["bytes"], 0, "nothing was built: {one}");
}

#[test]
fn the_directory_names_the_project() {
    let server = Server::start();
    let project = server.project("of-a-directory");
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("deep")).unwrap();
    let file = serde_json::json!({ "id": project.id }).to_string();
    std::fs::write(directory.path().join("depot.json"), file).unwrap();
    let show = || cofferdam(&server, "projects show").within(&directory.path().join("deep"));
    assert!(show().success().text().contains("of-a-directory"));
    let said = show().env("COFFERDAM_PROJECT", "nonesuch").run().failure();
    assert!(said.contains("not_found"), "{said}");
}
