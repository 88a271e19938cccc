//! A BuildKit client that is not ours asks for builds by buildpacks: attributes in, image and answers out.

use std::collections::HashMap;

use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::{Exporter, SolveRequest};
use cofferdam_tests::buildpacks::Workshop;
use cofferdam_tests::http::Server;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use super::sources::{open_to, repository};

struct Setup {
    workshop: Workshop,
    builder: String,
    server: Server,
    /// Has what is served.
    files: Workshop,
}

impl Setup {
    /// An app in a git repository, and as an archive.
    fn new() -> Self {
        let files = Workshop::new();
        let script = "echo \"said $SAID\"; printf '[[processes]]\\ntype = \"web\"\\ncommand = [\"x\"]\\ndefault = true\\n' > $CNB_LAYERS_DIR/launch.toml";
        files.buildpack("own", "exit 0", script);
        files.write("work/app/file", "one");
        files.write("work/top", "top");
        repository(&files.path(""), "echo two > app/file");
        let builder = files.image("builder", &["own"]);
        let server = Server::files(&files.path(""));
        let workshop = open_to(&server);
        Self { workshop, builder, server, files }
    }

    /// Solves with these attributes, and pushes as `name` when there is one.
    async fn solve(
        &self,
        name: &str,
        attrs: &[(&str, &str)],
    ) -> Result<HashMap<String, String>, tonic::Status> {
        let endpoint = Endpoint::from_shared(self.workshop.daemon().address()).unwrap();
        let mut client = ControlClient::new(endpoint.connect().await.unwrap());
        let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let image = self.workshop.reference(name);
        let exporter = Exporter {
            r#type: "image".into(),
            attrs: [("name", image.as_str()), ("push", "true")].map(text).into(),
        };
        let mut frontend_attrs: HashMap<String, String> = attrs.iter().copied().map(text).collect();
        frontend_attrs.insert("image".into(), image);
        frontend_attrs.insert("builder".into(), self.builder.clone());
        let request = SolveRequest {
            r#ref: format!("of-a-stranger-{:?}", std::time::Instant::now()),
            frontend: "buildpacks.v0".into(),
            frontend_attrs,
            exporters: vec![exporter],
            ..SolveRequest::default()
        };
        Ok(client.solve(request).await?.into_inner().exporter_response)
    }
}

fn flow(response: &HashMap<String, String>) -> Value {
    let text = &response["frontend.buildpacks.flow"];
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_from_a_git_repository() {
    let setup = Setup::new();
    let builder = setup.files.pull("builder").manifest_digest;
    let url = setup.server.url("repo.git");
    for (name, trust, reference) in
        [("first", "", "v1:app"), ("second", "true", "main:app"), ("third", "true", "v1")]
    {
        let context = format!("{url}#{reference}");
        let attrs =
            [("context", context.as_str()), ("trust-builder", trust), ("env", r#"{"SAID":"x"}"#)];
        let response = setup.solve(name, &attrs).await.unwrap();
        let flow = flow(&response);
        let expected = if trust.is_empty() { "untrusted" } else { "trusted" };
        assert_eq!(flow["flow"], expected, "{flow}");
        assert!(flow["reason"].as_str().unwrap().starts_with("the builder is "), "{flow}");
        assert_eq!(flow["builder"], format!("{}@{builder}", setup.builder));
        let phases = flow["phases"].as_array().unwrap().len();
        assert_eq!(phases, if trust.is_empty() { 5 } else { 3 }, "{flow}");
        assert!(response.contains_key("frontend.buildpacks.report"), "{response:?}");

        let image = setup.workshop.pull(name);
        assert_eq!(response["containerimage.digest"], image.digest);
        match name {
            "first" => assert_eq!(image.text("workspace/file"), "one"),
            "second" => assert_eq!(image.text("workspace/file"), "two\n"),
            _ => assert_eq!(image.text("workspace/top"), "top"),
        }
        assert!(!image.files().contains_key("workspace/.git"), "nobody asked for the history");
        assert_eq!(image.setting("Entrypoint"), &json!(["/cnb/process/web"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_from_an_archive_at_an_address() {
    let setup = Setup::new();
    let tar = std::process::Command::new("tar")
        .args(["-czf", "app.tgz", "-C", "work/app", "."])
        .current_dir(setup.files.path(""))
        .status();
    assert!(tar.unwrap().success());
    let context = setup.server.url("app.tgz");
    let response = setup.solve("archive", &[("context", context.as_str())]).await.unwrap();
    assert_eq!(flow(&response)["flow"], "untrusted");
    assert_eq!(setup.workshop.pull("archive").text("workspace/file"), "two\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_are_added_by_attributes() {
    let setup = Setup::new();
    setup.files.buildpack("work2", "exit 0", "exit 0");
    let directory = setup.files.path("");
    let tar = std::process::Command::new("tar")
        .args(["-czf", "added.tgz", "-C", "work2", "."])
        .current_dir(directory)
        .status();
    assert!(tar.unwrap().success());
    let modules = json!([setup.server.url("added.tgz")]).to_string();
    let context = setup.server.url("repo.git#v1:app");
    let attrs = [
        ("context", context.as_str()),
        ("trust-builder", "true"),
        ("post-buildpacks", modules.as_str()),
    ];
    let flow = flow(&setup.solve("added", &attrs).await.unwrap());
    assert_eq!(flow["flow"], "untrusted", "{flow}");
    assert_eq!(flow["modules"], json!(["test/work2@1.0.0"]), "{flow}");
    assert!(setup.workshop.has("added"));
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_attributes_are_named() {
    let setup = Setup::new();
    let context = setup.server.url("repo.git#v1:app");
    for (name, value) in [
        ("env", "[]"),
        ("operation", "destroy"),
        ("workspace", "../x"),
        ("buildpacks", "not JSON"),
        ("volumes", r#"[{"local":"x"}]"#),
        ("labels", "1"),
        ("context", "http://127.0.0.1:1/no.git"),
    ] {
        let attrs = [("context", context.as_str()), (name, value)];
        let error = setup.solve("wrong", &attrs).await.unwrap_err();
        let told = if name == "context" { "127.0.0.1:1" } else { name };
        assert!(error.message().contains(told), "{name}: {error:?}");
        assert!(!setup.workshop.has("wrong"), "{name}");
    }
    // Without a session there is nobody who could send the app.
    let error = setup.solve("wrong", &[]).await.unwrap_err();
    assert!(error.message().contains("session"), "{error:?}");
}
