//! Depot's command line where nothing is built: login, organizations, projects, tokens.

use std::time::{Duration, Instant};

use cofferdam_tests::{Client, Context, Server};
use serde_json::{Value, json};

use crate::browser::Browser;

/// The first word of a text that begins with `start`.
fn word(text: &str, start: &str) -> Option<String> {
    text.split_whitespace().find(|word| word.starts_with(start)).map(str::to_owned)
}

#[test]
fn login_waits_until_somebody_agrees() {
    let server = Server::start();
    let home = tempfile::tempdir().unwrap();
    let login = Client::depot(&server.url()).at_home(home.path()).args("login").spawn();
    let begun = Instant::now();
    let url = loop {
        let said = login.printed() + &login.said();
        if let Some(url) = word(&said, &server.url()) {
            break url;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "no URL: {said}");
        std::thread::sleep(Duration::from_millis(20));
    };
    Browser::default().agree(&url, server.token());
    let _ = login.finish().success();
    // The token it was given is kept, is not the organization's own, and is good for all that a person does.
    let kept = std::fs::read_to_string(home.path().join("config/depot/depot.yaml")).unwrap();
    assert!(kept.contains("api_token:") && !kept.contains(server.token()), "{kept}");
    let made = Client::depot(&server.url())
        .at_home(home.path())
        .args("projects create by-a-person")
        .success();
    assert!(made.text().contains("by-a-person"), "{}", made.text());
    let organizations =
        Client::depot(&server.url()).at_home(home.path()).args("org list").success();
    assert!(organizations.text().contains("default"), "{}", organizations.text());
}

#[test]
fn a_refused_login_ends() {
    let server = Server::start();
    let anonymous = Client::depot(&server.url()).args("projects list").run();
    assert!(anonymous.failure().contains("missing API token"));
    let wrong = Client::depot(&server.url()).token("cfd_org_wrong").args("projects list").run();
    assert!(wrong.failure().contains("unauthenticated"));
}

#[test]
fn projects_are_made_shown_changed_and_deleted() {
    let server = Server::start();
    let made = server.depot().args("projects create first --region eu-central-1").success();
    let made: Value = made.json();
    let id = made["project_id"].as_str().unwrap();
    assert_eq!(made["name"], "first");
    let _ = server.depot().args("projects create second --cache-storage-policy 100").success();

    let listed = server.depot().args("projects list").success().text();
    assert!(
        listed.contains("first") && listed.contains("second") && listed.contains(id),
        "{listed}"
    );
    let same = server.depot().args("list projects").success().text();
    assert_eq!(listed, same);

    let shown = server.depot().args("projects get").arg(id).success().text();
    for part in ["first", "eu-central-1", "50"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    let _ = server
        .depot()
        .args("projects update --name renamed --region us-east-1 --cache-storage-policy 25")
        .arg(id)
        .success();
    let shown = server.depot().args("projects get").arg(id).success().text();
    for part in ["renamed", "us-east-1", "25"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }

    let _ = server.depot().args("projects delete -y --project-id").arg(id).success();
    let listed = server.depot().args("projects list").success().text();
    assert!(!listed.contains(id) && listed.contains("second"), "{listed}");
    let gone = server.depot().args("projects get").arg(id).run().failure();
    assert!(gone.contains("not_found"), "{gone}");
}

#[test]
fn the_command_line_and_the_api_agree_on_cache_policies() {
    let server = Server::start();
    let made = server.depot().args("projects create sized --cache-storage-policy 75").success();
    let id = made.json()["project_id"].as_str().unwrap().to_owned();
    let method = "depot.core.v1.ProjectService/GetProject";
    let policy =
        || server.call(method, &json!({ "projectId": id })).ok()["project"]["cachePolicy"].clone();
    assert_eq!(policy()["keepGb"], 75);
    assert_eq!(policy()["keepDays"], 14);
    assert_eq!(policy()["keepBytes"], (75_u64 << 30).to_string());
    let _ = server
        .call(
            "depot.core.v1.ProjectService/UpdateProject",
            &json!({ "projectId": id, "cachePolicy": { "keepGb": 33, "keepDays": 3 } }),
        )
        .ok();
    let shown = server.depot().args("projects get").arg(&id).success().text();
    assert!(shown.contains("33") && shown.contains('3'), "{shown}");
}

#[test]
fn a_project_token_sees_its_project_only() {
    let server = Server::start();
    let (own, other) = (server.project("own"), server.project("other"));
    let depot = || Client::depot(&server.url()).token(&own.token);
    let listed = depot().args("projects list").success().text();
    assert!(listed.contains(&own.id) && !listed.contains(&other.id), "{listed}");
    assert_ne!(depot().args("list builds --project").arg(&other.id).run().code, Some(0));
    let _ = depot().args("list builds --project").arg(&own.id).success();
    assert_ne!(depot().args("projects create more").run().code, Some(0));
    assert_ne!(depot().args("projects delete -y --project-id").arg(&own.id).run().code, Some(0));
}

#[test]
fn init_shows_what_there_is_to_choose_from() {
    let server = Server::start();
    let project = server.project("chosen");
    // Choosing needs a terminal; without one the client prints the choice and gives up.
    let empty = tempfile::tempdir().unwrap();
    let outcome = server.depot().args("init").within(empty.path()).run();
    let said = outcome.text() + &outcome.stderr;
    assert!(said.contains(&project.id), "{said}");
}

#[test]
fn builds_are_listed_and_the_cache_is_reset() {
    let server = Server::start();
    let project = server.project("listed");
    let context = Context::dockerfile("FROM @busybox\nRUN head -c 16 /dev/urandom | md5sum > /r\n");
    let _ = server.depot_build(&project, &context).success();
    let listed = server.depot().args("list builds --project").arg(&project.id).success().text();
    let build = server.newest_build(&project);
    assert!(listed.contains(build["buildId"].as_str().unwrap()), "{listed}");

    let again = server.depot_build(&project, &context).success();
    assert!(again.step("RUN head").cached, "{}", again.stderr);
    let reset = server.depot().args("cache reset --project").arg(&project.id).success();
    let said = reset.text() + &reset.stderr;
    assert!(said.contains("listed"), "{said}");
    let after = server.depot_build(&project, &context).success();
    assert!(!after.step("RUN head").cached, "{}", after.stderr);
}
