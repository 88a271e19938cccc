//! Builds through a server, which keeps records of them.

use cofferdam_tests::{Client, Context, Server};

use super::builds::guarded;
use super::{Hunt, Secret};
use crate::stage::Stage;

/// A bake file with a target that ends well and one that fails, both with the secret.
const BAKE: &str = "group \"default\" { targets = [\"good\", \"bad\"] }\n\
    target \"good\" {\n  args = { CODE = \"0\" }\n  secret = [\"id=s,env=PLANTED\"]\n}\n\
    target \"bad\" {\n  args = { CODE = \"7\" }\n  secret = [\"id=s,env=PLANTED\"]\n}\n";

pub(super) fn through_a_server(_: &Stage) -> String {
    let secret = Secret::new("served");
    let mut hunt = Hunt::default();
    hunt.wanted(&secret);
    let server = Server::start();
    let project = server.project("secrets");
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nARG CODE=0\nRUN --mount=type=secret,id=s,required --mount=type=secret,id=s,env=TOKEN test ${#TOKEN} -gt 9 && sha256sum /run/secrets/s > /proof; exit $CODE\n",
        ),
        ("docker-bake.hcl", BAKE),
    ]);
    let mut codes = Vec::new();
    for code in ["0", "0", "7"] {
        let build = server
            .depot_build(&project, &context)
            .args("--secret id=s,env=PLANTED --save --build-arg");
        let outcome = build.arg(format!("CODE={code}")).env("PLANTED", secret.text()).run();
        hunt.unsaid("depot build", &outcome.stderr);
        codes.push(outcome.code == Some(0));
    }
    let bake = Client::depot(&server.url())
        .token(&project.token)
        .args("bake --progress plain --project")
        .arg(&project.id);
    let outcome = bake.within(context.path()).env("PLANTED", secret.text()).run();
    hunt.unsaid("depot bake", &outcome.stderr);
    codes.push(outcome.code == Some(0));
    let build = server
        .build(&project, &context)
        .args("--secret id=s,env=PLANTED")
        .env("PLANTED", secret.text());
    let outcome = build.run();
    hunt.unsaid("cofferdam build", &outcome.stderr);
    codes.push(outcome.code == Some(0));
    // In the URL of a download, right and wrong.
    let password = Secret::new("password");
    hunt.wanted(&password);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "content").unwrap();
    let guarded = guarded(directory.path(), &[format!("builder:{}", password.text())]);
    for name in ["file", "gone"] {
        let url = format!("http://builder:{}@{}/{name}", password.text(), guarded.address());
        let context = Context::dockerfile(&format!("FROM scratch\nADD {url} /file\n"));
        let outcome = server.build(&project, &context).run();
        hunt.unsaid("cofferdam build of a URL", &outcome.stderr);
        codes.push(outcome.code == Some(0));
    }
    assert_eq!(codes, [true, true, false, false, true, true, false]);
    assert_eq!(server.builds(&project).len(), 7, "control: they are recorded");
    hunt.unsaid("messages of the server", &server.log());
    hunt.absent("the running server's data", &server.data().path());
    let token = Secret::known(&project.token);
    let data = server.stop();
    hunt.absent("the server's data", &data.path());
    let mut tokens = Hunt::default();
    tokens.wanted(&token);
    tokens.absent("tokens in the server's data", &data.path());
    "7 builds, nothing in records, logs, stores".to_owned()
}
