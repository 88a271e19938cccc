//! Depot's Node SDK: every method it has, called by one program, whose answers are looked at here.

use cofferdam_tests::{Client, Context, Server};
use serde_json::Value;

#[test]
fn every_method_of_the_node_sdk() {
    let server = Server::start();
    let project = server.project("built");
    let context = Context::dockerfile("FROM @busybox\nRUN echo one; echo two\n");
    let _ = server.depot_build(&project, &context).args("--save").success();
    let build = server.newest_id(&project);
    let outcome = Client::node("tests/clients/sdk.mjs")
        .env("DEPOT_API_URL", server.url())
        .env("PROJECT", &project.id)
        .env("BUILD", &build)
        .env("IMAGE", &build)
        .token(server.token())
        .success();
    let told = outcome.json();
    assert_eq!(told["never"], serde_json::json!([]), "methods that were not called");
    let answers = &told["answers"];
    projects(answers, told["projectId"].as_str().unwrap());
    tokens(answers);
    builders(answers);
    builds(answers, told["buildId"].as_str().unwrap());
    records(answers, &build);
    usage(answers, &project.id);
}

fn code(answer: &Value) -> &str {
    answer["code"].as_str().unwrap_or_else(|| panic!("not refused: {answer}"))
}

fn projects(answers: &Value, id: &str) {
    let created = &answers["createProject"]["project"];
    assert_eq!(created["name"], "sdk");
    assert_eq!(created["regionId"], "eu-central-1");
    assert_eq!(created["hardware"], "HARDWARE_32X64");
    assert_eq!(created["cachePolicy"]["keepGb"], 30);
    assert_eq!(created["cachePolicy"]["keepDays"], 7);
    assert_eq!(answers["getProject"]["project"], *created);
    let updated = &answers["updateProject"]["project"];
    assert_eq!(updated["name"], "sdk renamed");
    assert_eq!(updated["hardware"], "HARDWARE_4X4");
    assert_eq!(updated["regionId"], "eu-central-1", "what is not given stays");
    assert_eq!(updated["cachePolicy"], created["cachePolicy"]);
    assert_eq!(answers["listProjects"]["projects"].as_array().unwrap().len(), 2);
    assert_eq!(code(&answers["getProject.unknown"]), "NotFound");
    assert_eq!(code(&answers["listProjects.anonymous"]), "Unauthenticated");
    assert_eq!(code(&answers["getProject.deleted"]), "NotFound");
    assert_eq!(
        answers["getProject.deleted"]["message"].as_str().unwrap().replace(id, "0000000000"),
        answers["getProject.unknown"]["message"].as_str().unwrap(),
        "gone and never there look the same"
    );
}

fn tokens(answers: &Value) {
    let policies = answers["listTrustPolicies"]["trustPolicies"].as_array().unwrap();
    assert_eq!(policies.len(), 3);
    let github = policies.iter().find(|policy| policy["github"].is_object()).unwrap();
    assert_eq!(github["github"]["repositoryOwner"], "octo");
    assert_eq!(answers["listTrustPolicies.removed"], serde_json::json!({}));
    assert!(answers["createToken"]["secret"].as_str().unwrap().starts_with("cfd_project_"));
    let listed = answers["listTokens"]["tokens"].as_array().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["description"], "for another customer");
    assert!(listed[0].get("secret").is_none());
    assert_eq!(code(&answers["getBuild.revoked"]), "Unauthenticated");
}

fn builders(answers: &Value) {
    let endpoint = &answers["endpoint"];
    assert!(endpoint["endpoint"].as_str().unwrap().starts_with("tcp://127.0.0.1:"), "{endpoint}");
    for (part, begins) in
        [("cert", "-----BEGIN CERTIFICATE-----"), ("key", "-----BEGIN PRIVATE KEY-----")]
    {
        assert!(endpoint["cert"][part][part].as_str().unwrap().starts_with(begins), "{part}");
    }
    assert_eq!(answers["workers"], "grpc-status 0");
    assert_ne!(answers["workersWithoutCertificate"], "grpc-status 0");
    assert_eq!(answers["running"]["build"]["status"], "STATUS_RUNNING");
}

fn builds(answers: &Value, id: &str) {
    let build = &answers["getBuild"]["build"];
    assert_eq!(build["buildId"], id);
    assert_eq!(build["status"], "STATUS_SUCCESS");
    assert!(build["finishedAt"].is_string());
    assert_eq!(answers["getBuild.failed"]["build"]["status"], "STATUS_FAILED");
    let pages = answers["listed"].as_array().unwrap();
    let ids: Vec<&Value> = pages.iter().map(|page| &page["builds"][0]["buildId"]).collect();
    assert_eq!(ids.len(), 2, "{pages:?}");
    assert_eq!(ids[1], id, "newest first");
    assert!(pages[1].get("nextPageToken").is_none_or(|token| token == ""));
}

fn records(answers: &Value, build: &str) {
    let steps = answers["getBuildSteps"]["buildSteps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["name"].as_str().unwrap().contains("RUN echo one")));
    let logs = answers["getBuildStepLogs"]["logs"].as_array().unwrap();
    let lines: Vec<&str> = logs.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(lines, ["one", "two"]);
    assert!(answers["shareBuild"]["shareUrl"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    let images = answers["listImages"]["images"].as_array().unwrap();
    assert_eq!(images.len(), 1, "{images:?}");
    assert_eq!(images[0]["tag"], build);
    assert!(images[0]["sizeBytes"].as_str().unwrap().parse::<u64>().unwrap() > 100_000);
    assert!(answers["listImages.deleted"]["images"].as_array().is_none_or(Vec::is_empty));
}

fn usage(answers: &Value, project: &str) {
    let used = &answers["getProjectUsage"]["usage"];
    assert_eq!(used["projectId"], project);
    assert_eq!(used["buildCount"], 1);
    let listed = answers["listProjectUsage"]["usage"].as_array().unwrap();
    assert!(listed.iter().any(|usage| usage == used), "{listed:?}");
    let builds = answers["getUsage"]["containerBuild"].as_array().unwrap();
    assert!(builds.iter().any(|usage| usage["projectName"] == "built"), "{builds:?}");
    assert!(answers["getUsage"]["periodStart"].is_string());
    assert_eq!(answers["listOrganizations"]["organizations"][0]["name"], "default");
}
