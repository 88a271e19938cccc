//! The life of a customer, with Cofferdam's own client and command line.
//!
//! Your platform holds an organization token. Each customer gets a project: a cache, builders, images and tokens of its own, that
//! no other customer can reach.
//!
//! ```sh
//! COFFERDAM_SERVER=http://127.0.0.1:8080 COFFERDAM_TOKEN=cfd_org_… cargo run -p cofferdam-example-customer
//! ```

use std::env;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use cofferdam_apiclient::{
    ApiClient, Build, CachePolicy, LogCursor, NewProject, PageRequest, ServerUrl, Step,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let server: ServerUrl = env::var("COFFERDAM_SERVER").context("COFFERDAM_SERVER")?.parse()?;
    let token = env::var("COFFERDAM_TOKEN").context("COFFERDAM_TOKEN")?;
    let application = env::args().nth(1).unwrap_or_else(|| "examples/hello".to_owned());
    let platform = ApiClient::new(&server, Some(&token))?;

    // 1. A customer signs up: a project, and a token that is good for this project only. It is shown once: keep it safe.
    let project = platform
        .create_project(NewProject {
            name: "customer-from-rust".to_owned(),
            region: "us-east-1".to_owned(),
            cache: Some(CachePolicy { keep_gb: 10, keep_days: 7 }),
            ..NewProject::default()
        })
        .await?;
    let token = platform.create_token(&project.id, "builds of this customer").await?;
    println!("project {} ({})", project.id, project.name);

    // 2. The customer builds, twice: the second time the cache answers.
    for _ in 0..2 {
        build(&server, &project.id, &token.secret, &application)?;
    }

    // 3. The platform looks at the customer's builds, newest first.
    let builds = every_build(&platform, &project.id).await?;
    for build in &builds {
        println!(
            "build {}: {}, {} of {} steps cached, took {} s, saved {} s",
            build.id,
            build.status.name(),
            build.cached_steps.unwrap_or_default(),
            build.total_steps.unwrap_or_default(),
            build.duration_seconds.unwrap_or_default(),
            build.saved_seconds.unwrap_or_default(),
        );
    }

    // 4. What the first build did: its steps, and what they wrote.
    let first = &builds.last().context("there is no build")?.id;
    for step in platform.steps(&project.id, first, PageRequest::default()).await?.items {
        show(&platform, &project.id, first, &step).await?;
    }

    // 5. A cache that misbehaves is thrown away; the customer's next build starts from nothing.
    platform.reset_project(&project.id).await?;
    println!("reset");

    // 6. The customer leaves: cache, images, builds and tokens go.
    platform.delete_project(&project.id).await?;
    println!("deleted");
    Ok(())
}

/// Builds with the customer's token.
fn build(server: &ServerUrl, project: &str, token: &str, application: &str) -> anyhow::Result<()> {
    let mut command = Command::new("cofferdam");
    command
        .args(["build", "--server", server.as_str(), "--project", project, "--progress", "plain"])
        .env("COFFERDAM_TOKEN", token)
        .stdin(Stdio::null());
    if let Ok(base) = env::var("BASE_IMAGE") {
        command.args(["--build-arg", &format!("BASE={base}")]);
    }
    let status = command.arg(application).status().context("start cofferdam")?;
    ensure!(status.success(), "the build failed");
    Ok(())
}

/// Goes through every page: the last one has no token for a next one.
async fn every_build(platform: &ApiClient, project: &str) -> anyhow::Result<Vec<Build>> {
    let mut builds = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let page = platform.builds(project, PageRequest::at(token.as_deref()).of(1)).await?;
        builds.extend(page.items);
        token = page.next;
        if token.is_none() {
            return Ok(builds);
        }
    }
}

/// Prints a step and its log.
async fn show(platform: &ApiClient, project: &str, build: &str, step: &Step) -> anyhow::Result<()> {
    let seconds = match (step.started_at, step.completed_at) {
        (Some(started), Some(completed)) => (completed - started).as_seconds_f64(),
        _ => 0.0,
    };
    // An error is there or it is not: a step that went well has none, not an empty one.
    let outcome = step.error.as_deref().unwrap_or(if step.cached { "cached" } else { "done" });
    println!("  {}  {seconds:.1} s  {outcome}", step.name);
    let mut cursor = LogCursor::default();
    let mut more = step.has_logs;
    while more {
        let (lines, others) = platform.log_lines(project, build, &step.digest, &mut cursor).await?;
        more = others;
        for line in lines {
            println!("    | {}", line.message);
        }
    }
    Ok(())
}
