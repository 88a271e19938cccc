//! A server whose disk is full: it says so, loses nothing, and goes on when there is room.

use std::sync::Arc;
use std::time::Duration;

use cofferdam_tests::{Context, Data, Disk, Server, need_root};
use serde_json::{Value, json};

use crate::shared::{FULL, one_error};

#[test]
fn a_server_with_a_full_disk_answers_and_recovers() {
    need_root();
    let data = Data::new();
    let disk = Disk::mount(data.path().parent().unwrap(), "160m");
    let server = Server::start_in(Arc::clone(&data), "");
    let project = server.project("full");
    let context = Context::dockerfile("FROM @busybox\nRUN echo made > /made\n");
    let build = || server.build(&project, &context).args("--no-cache --save").run();
    let _ = build().success();
    let create = |name: &str| {
        let message = json!({ "name": name, "regionId": "us-east-1" });
        server.call("depot.core.v1.ProjectService/CreateProject", &message)
    };
    let list = || server.call("depot.core.v1.ProjectService/ListProjects", &json!({})).ok();
    let words = [FULL, &["the server's disk is full"]].concat();
    let mut refused = 0;
    for room in [0, 4 << 10, 64 << 10, 512 << 10, 2 << 20] {
        disk.leave_bytes(room);
        // Small writes fit into what the records have already, until they do not.
        for number in 0..40 {
            let answer = create(&format!("p{room}-{number}"));
            if answer.status != 200 {
                refused += 1;
                let code = answer.code();
                assert!(matches!(code, "unavailable" | "resource_exhausted"), "{}", answer.body);
                break;
            }
        }
        let known = list();
        assert!(known.to_string().contains(&project.id), "what can be read is read: {known}");
        let outcome = build();
        if outcome.code != Some(0) {
            refused += 1;
            one_error(&outcome.failure(), &words);
        }
    }
    assert!(refused > 0, "control: the disk was never full");
    disk.release();
    let _ = create("after").ok();
    let _ = build().success();
    for build in server.builds(&project) {
        let ended = server.ended(build["buildId"].as_str().unwrap(), Duration::from_secs(60));
        assert_ne!(ended["status"], "STATUS_RUNNING", "{ended}");
    }
    // What was recorded is there for the next one.
    let ids = |list: &Value| -> Vec<Value> {
        let projects = list["projects"].as_array().unwrap();
        projects.iter().map(|project| project["projectId"].clone()).collect()
    };
    let projects = ids(&list());
    let token = server.token().to_owned();
    let server = Server::start_in(server.stop(), "");
    let method = "depot.core.v1.ProjectService/ListProjects";
    assert_eq!(ids(&server.call_as(&token, method, &json!({})).ok()), projects);
    let _ = server.build(&project, &context).run().success();
}
