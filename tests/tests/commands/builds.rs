//! Builds as they are listed, shown, followed, stopped and shared.

use cofferdam_tests::http::request;
use cofferdam_tests::{Client, Context, Server};
use serde_json::Value;

use crate::{cofferdam, wait, with_token};

/// Names and output that would take over a terminal: the title, the screen, the order of what follows.
fn hostile() -> Context {
    Context::dockerfile(
        "FROM @busybox\nRUN echo \"\x1b]0;gone\x07\x1b[2J\u{9b}2J\u{202e}\" > /name\n\
         RUN printf '\\033]0;gone\\007\\033[2J\\302\\2332J\\342\\200\\256shown\\n'; exit 3\n",
    )
}

fn controls(text: &str) -> Vec<char> {
    let hostile =
        |c: &char| (c.is_control() && *c != '\n') || ('\u{202a}'..='\u{202e}').contains(c);
    text.chars().filter(hostile).collect()
}

#[test]
fn a_build_is_shown_with_its_steps() {
    let server = Server::start();
    let project = server.project("shown");
    let context = Context::dockerfile("FROM @busybox\nRUN echo said; sleep 1\nRUN echo more\n");
    let _ = server.build(&project, &context).run().success();
    let again = server.build(&project, &context).run().success();
    assert!(again.ran().is_empty(), "{:?}", again.ran());
    let builds = cofferdam(&server, "builds list --json --project").arg(&project.id);
    let builds = builds.success().json();
    let builds = builds.as_array().unwrap();
    assert_eq!(builds.len(), 2);
    assert!(builds.iter().all(|build| build["status"] == "success"), "{builds:?}");
    let id = |index: usize| builds[index]["id"].as_str().unwrap();

    // A project's own token is enough.
    let shown = with_token(&server, &project.token, "builds show").arg(id(1)).success().text();
    let line = |part: &str, text: &str| {
        let found = text.lines().find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("no {part}: {text}")).to_owned()
    };
    assert!(line("status", &shown).ends_with("success"), "{shown}");
    assert!(line("page", &shown).contains(&server.url()), "{shown}");
    let slow = line("RUN echo said", &shown);
    assert!(slow.contains("####") && !slow.contains("cached"), "{shown}");
    let shown = cofferdam(&server, "builds show").arg(id(0)).success().text();
    let quick = line("RUN echo said", &shown);
    assert!(quick.contains('-') && quick.ends_with("cached"), "{shown}");
    assert!(line("cached steps", &shown).contains("saved about"), "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");

    let json = cofferdam(&server, "builds show --network --json").arg(id(1)).success().json();
    assert_eq!(json["project"], project.id.as_str());
    let steps = json["steps"].as_array().unwrap();
    assert_eq!(json["total_steps"], steps.len());
    let pulls = json["connections"].as_array().unwrap();
    let (_, port) = cofferdam_tests::images::registry().address().rsplit_once(':').unwrap();
    let pulls: Vec<_> =
        pulls.iter().filter(|one| one["port"].as_u64() == port.parse().ok()).collect();
    assert!(pulls.iter().all(|pull| pull["address"] == "127.0.0.1" && pull["allowed"] == true));
    // One that was opened while another became free carries nothing.
    let received = |pull: &&Value| pull["received_bytes"].as_u64().unwrap() > 0;
    assert!(pulls.iter().any(received), "the pull of the base: {json}");
    let network = cofferdam(&server, "builds show --network").arg(id(1)).success().text();
    assert!(network.contains("No connections.") || network.contains("RECEIVED"), "{network}");

    let logs = cofferdam(&server, "builds logs").arg(id(1)).success().text();
    assert!(logs.contains(" said\n") && logs.contains(" more\n"), "{logs}");
    let number = 1 + steps
        .iter()
        .position(|step| step["name"].as_str().unwrap().contains("RUN echo more"))
        .unwrap();
    assert!(logs.contains(&format!("#{number} ")), "{logs}");
    let digest = steps[number - 1]["digest"].as_str().unwrap();
    for step in [number.to_string(), digest.to_owned()] {
        let alone = cofferdam(&server, "builds logs --step").arg(step).arg(id(1)).success().text();
        assert_eq!(alone, "more\n");
    }
    let said = cofferdam(&server, "builds logs --step 99").arg(id(1)).run().failure();
    assert!(said.contains("no such step"), "{said}");
    let lines = cofferdam(&server, "builds logs --json").arg(id(1)).success().text();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["message"].as_str().unwrap().trim() == "more"
        && line["step"] == number
        && line["digest"] == digest));
}

#[test]
fn nothing_in_a_build_controls_the_terminal() {
    let server = Server::start();
    let project = server.project("hostile");
    let failed = server.build(&project, &hostile()).run().failure();
    assert!(failed.contains("exit code: 3"), "{failed}");
    let id = server.newest_id(&project);
    for args in ["builds show", "builds show --json", "builds logs", "builds logs --json"] {
        let outcome = cofferdam(&server, args).arg(&id).success();
        assert_eq!(controls(&outcome.text()), [], "{args}: {:?}", outcome.text());
    }
    let shown = cofferdam(&server, "builds show").arg(&id).success().text();
    assert!(shown.contains("failed") && shown.contains("exit code: 3"), "{shown}");
    assert!(cofferdam(&server, "builds logs").arg(&id).success().text().contains("shown"));
}

#[test]
fn a_running_build_is_followed_and_stopped() {
    let server = Server::start();
    let project = server.project("followed");
    let context = Context::dockerfile(
        "FROM @busybox\nRUN for n in 1 2 3; do echo line $n; sleep 1; done; echo end; sleep 3600\n",
    );
    let build = server.build(&project, &context).spawn();
    let id = wait("build", || {
        let build = server.builds(&project).into_iter().next()?;
        Some(build["buildId"].as_str()?.to_owned())
    });
    let follow = cofferdam(&server, "builds logs -f").arg(&id).spawn();
    wait("third line", || follow.printed().contains("line 3\n").then_some(()));
    wait("end", || follow.printed().contains("end\n").then_some(()));
    let shown = cofferdam(&server, "builds show").arg(&id).success().text();
    assert!(shown.contains("running") && shown.contains(">>>"), "{shown}");

    let _ = cofferdam(&server, "builds cancel").arg(&id).success();
    let said = build.finish().failure();
    assert!(said.contains("cancel"), "{said}");
    let followed = follow.finish().success().text();
    for line in ["line 1\n", "line 2\n", "line 3\n", "end\n"] {
        assert_eq!(followed.matches(line).count(), 1, "{line}: {followed}");
    }
    let listed = cofferdam(&server, "builds list --project").arg(&project.id).success().text();
    assert!(listed.contains("canceled"), "{listed}");
    // Once more changes nothing.
    let _ = cofferdam(&server, "builds cancel").arg(&id).success();
}

#[test]
fn a_shared_build_needs_no_token() {
    let server = Server::start();
    let project = server.project("shared");
    let context = Context::dockerfile("FROM @busybox\nRUN echo open\n");
    let _ = server.build(&project, &context).run().success();
    let id = server.newest_id(&project);
    let url = cofferdam(&server, "builds share").arg(&id).success().text();
    let open = || request("GET", url.trim(), &[], b"").status;
    assert_eq!(open(), 200, "{url}");
    let _ = cofferdam(&server, "builds unshare").arg(&id).success();
    assert_eq!(open(), 404, "{url}");
}

#[test]
fn long_lists_come_in_parts_and_may_be_cut_off() {
    let server = Server::start();
    let project = server.project("long");
    for _ in 0..130 {
        let order = serde_json::json!({ "projectId": project.id });
        let made = server.call("depot.build.v1.BuildService/CreateBuild", &order).ok();
        let end = serde_json::json!({ "buildId": made["buildId"], "success": {} });
        let _ = server.call("depot.build.v1.BuildService/FinishBuild", &end).ok();
    }
    let list = |args: &str| cofferdam(&server, args).arg("--project").arg(&project.id).success();
    let all = list("builds list --all --json").json();
    let ids: std::collections::BTreeSet<&str> =
        all.as_array().unwrap().iter().map(|build| build["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 130);
    assert_eq!(list("builds list --limit 120").text().lines().count(), 121);
    assert_eq!(list("builds list").text().lines().count(), 31);
    // Whoever has read enough closes the pipe; nothing is said about it.
    let script = format!(
        "{} builds list --all --project {} | head -n 1",
        cofferdam_tests::program().display(),
        project.id
    );
    let cut = Client::new("sh")
        .env("COFFERDAM_SERVER", server.url())
        .env("COFFERDAM_TOKEN", server.token())
        .arg("-c")
        .arg(script)
        .success();
    assert!(cut.stderr.is_empty(), "{}", cut.stderr);
}
