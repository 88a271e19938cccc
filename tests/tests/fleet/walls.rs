//! Walls between projects, and between builds of one project: each tried, with a control that shows the try could succeed.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{SolveRequest, StatusRequest};
use cofferdam_tests::Context;
use tonic::transport::{Channel, Endpoint};

use super::yard::{Door, Seen, Yard, blocking, project};

/// Lists a directory as a project's builder would on the host; gives what it found, or nothing when it may not.
fn list_as(id: u32, directory: &Path) -> Option<String> {
    let id = id.to_string();
    let listed = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "ls", "-A"])
        .arg(".")
        .current_dir(directory)
        .output()
        .unwrap();
    listed.status.success().then(|| String::from_utf8(listed.stdout).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_cannot_read_each_others_stores() {
    let yard = Yard::new().await;
    let specs = [project(30), project(31)];
    let mut owners = Vec::new();
    for spec in &specs {
        let lease = Arc::new(yard.lease(spec).await);
        let door = Door::open(&lease, "b");
        let context = Context::dockerfile("FROM @busybox\nRUN echo secret > /s\n");
        assert_eq!(blocking(|| door.build(&context).image().text("s")), "secret\n");
        let store = yard.home(&spec.project).join("builder/store");
        let metadata = std::fs::metadata(&store).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o700);
        owners.push((metadata.uid(), store));
    }
    let [(first, first_store), (second, second_store)] = &owners[..] else { panic!() };
    assert_eq!(second - first, 131_072);
    // With the way there already walked, which takes root: only the store's own wall is left.
    assert!(list_as(*first, first_store).unwrap().contains("content"), "control: its own it reads");
    assert!(list_as(*second, second_store).is_some());
    assert_eq!(list_as(*first, second_store), None);
    assert_eq!(list_as(*second, first_store), None);
    // Steps' ids are no way in either, and nobody but root walks the way.
    assert_eq!(list_as(first + 65_536, second_store), None);
    for directory in [yard.home("p30"), yard.home("p31").join("run")] {
        let mode = std::fs::metadata(directory).map(|metadata| metadata.mode() & 0o077);
        assert_eq!(mode.unwrap(), 0);
    }
    yard.close().await;
}

async fn control(door: &Door) -> ControlClient<Channel> {
    let endpoint = Endpoint::from_shared(door.address().to_owned()).unwrap();
    ControlClient::new(endpoint.connect().await.unwrap())
}

/// Tries to follow a solve through a door; gives whether there was anything, or the error.
async fn follow(door: &Door, reference: &str) -> Result<bool, String> {
    let request = StatusRequest { r#ref: reference.to_owned() };
    let answer = control(door).await.status(request).await;
    let mut stream = answer.map_err(|status| status.message().to_owned())?.into_inner();
    let first = tokio::time::timeout(Duration::from_secs(5), stream.message()).await;
    Ok(first.unwrap().map_err(|status| status.message().to_owned())?.is_some())
}

/// Asks for a Dockerfile build whose files are to come from `session`; gives the error, or nothing while there is none.
async fn solve_with(door: &Door, reference: &str, session: &str) -> Option<String> {
    let request = SolveRequest {
        r#ref: reference.to_owned(),
        session: session.to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        ..Default::default()
    };
    let mut client = control(door).await;
    let answer = tokio::time::timeout(Duration::from_secs(60), client.solve(request)).await;
    Some(answer.ok()?.unwrap_err().message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_one_project_cannot_use_each_others_sessions() {
    let yard = Yard::new().await;
    let lease = Arc::new(yard.lease(&project(33)).await);
    let (victim, attacker) = (Door::open(&lease, "victim"), Door::open(&lease, "attacker"));
    // A session that offers nothing: whoever reaches it is told so.
    let mut request = tonic::Request::new(futures::stream::pending());
    request.metadata_mut().insert("x-docker-expose-session-uuid", "s1".parse().unwrap());
    let mut client = control(&victim).await;
    let session = tokio::spawn(async move {
        let mut answers = client.session(request).await.unwrap().into_inner();
        while let Ok(Some(_)) = answers.message().await {}
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let attempts = ["s1", "x:s1", "victim/s1", "x:victim/s1", "/victim/s1"];
    let tried = attempts.iter().enumerate().map(|(number, name)| {
        let (attacker, reference) = (&attacker, format!("r{number}"));
        async move { (*name, solve_with(attacker, &reference, name).await) }
    });
    // Before the others: who asks for the same at the same time shares the work, whatever comes of it.
    let own = solve_with(&victim, "own", "s1").await.unwrap();
    assert!(own.contains("no local sources enabled"), "control: its own session is found: {own}");
    let tried = futures::future::join_all(tried).await;
    for (name, error) in tried {
        let error = error.unwrap();
        assert!(error.contains("no active session"), "{name}: {error}");
    }
    session.abort();
    yard.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_of_one_project_cannot_follow_each_other() {
    let yard = Yard::new().await;
    let lease = Arc::new(yard.lease(&project(32)).await);
    let (seen, _) = Seen::collect(lease.watch("victim").await.unwrap());
    let door = Door::open(&lease, "victim");
    let context = Context::dockerfile("FROM @busybox\nRUN echo mine; sleep 20\n");
    let build = door.build(&context).spawn();
    seen.until(|seen| seen.logs().contains("mine")).await;
    let reference = seen.solves().0[0].clone();
    let attacker = Door::open(&lease, "attacker");
    assert_eq!(follow(&door, &reference).await, Ok(true), "control: its own");
    for attempt in [
        reference.clone(),
        format!("victim/{reference}"),
        format!("../victim/{reference}"),
        format!("/victim/{reference}"),
    ] {
        let error = follow(&attacker, &attempt).await.unwrap_err();
        assert!(error.contains("no such job"), "{attempt}: {error}");
        assert!(!error.contains("attacker/"), "names of the builder's own are not shown: {error}");
    }
    // The same reference again is another build's own affair.
    let mut client = control(&attacker).await;
    let request = SolveRequest { r#ref: reference.clone(), ..Default::default() };
    let solving = tokio::spawn(async move { client.solve(request).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!solving.is_finished(), "it waits for its own client, and no id is taken");
    solving.abort();
    lease.cancel("attacker", "over").await.unwrap();
    assert_eq!(follow(&door, &reference).await, Ok(true), "the victim still runs");
    lease.cancel("victim", "over").await.unwrap();
    let _ = blocking(|| build.finish());
    yard.close().await;
}
