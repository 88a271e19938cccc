//! Instructions that show in the image's config: LABEL, EXPOSE, VOLUME, ENTRYPOINT, CMD, SHELL, STOPSIGNAL, HEALTHCHECK,
//! ONBUILD, MAINTAINER, USER, WORKDIR; and the history of all. What a builder's own flags `--debugaddr` and
//! `--cdi-spec-dir` do is here too.

use std::net::TcpListener;

use cofferdam_tests::http::request;
use cofferdam_tests::{Builder, Context, Options, Registry};
use serde_json::json;

#[test]
fn each_instruction_shows_in_the_config() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nLABEL one=1 two=\"a b\" \"three.x\"=3\nEXPOSE 80 53/udp 8000-8002\nVOLUME /data [\"/x\"]\nVOLUME [\"/j1\",\"/j2\"]\n\
         SHELL [\"/bin/sh\", \"-ec\"]\nENTRYPOINT [\"/bin/app\", \"--flag\"]\nCMD [\"one\", \"two\"]\nSTOPSIGNAL SIGTERM\n\
         HEALTHCHECK --interval=5s --timeout=3s --start-period=1m --retries=4 CMD [\"check\", \"me\"]\nMAINTAINER someone <s@example.com>\n\
         WORKDIR /work\nWORKDIR sub\nUSER app\nRUN pwd > /tmp/out && id >> /tmp/out\n",
    );
    assert_eq!(image.setting("Labels"), &json!({ "one": "1", "two": "a b", "three.x": "3" }));
    for port in ["80/tcp", "53/udp", "8000/tcp", "8001/tcp", "8002/tcp"] {
        assert!(
            image.setting("ExposedPorts")[port].is_object(),
            "{port}: {}",
            image.setting("ExposedPorts")
        );
    }
    for volume in ["/data", "/j1", "/j2"] {
        assert!(
            image.setting("Volumes")[volume].is_object(),
            "{volume}: {}",
            image.setting("Volumes")
        );
    }
    assert_eq!(image.setting("Shell"), &json!(["/bin/sh", "-ec"]));
    assert_eq!(image.setting("Entrypoint"), &json!(["/bin/app", "--flag"]));
    assert_eq!(image.setting("Cmd"), &json!(["one", "two"]));
    assert_eq!(image.setting("StopSignal"), "SIGTERM");
    let second = 1_000_000_000_u64;
    assert_eq!(
        image.setting("Healthcheck"),
        &json!({ "Test": ["CMD", "check", "me"], "Interval": 5 * second, "Timeout": 3 * second, "StartPeriod": 60 * second, "Retries": 4 })
    );
    assert_eq!(image.config["author"], "someone <s@example.com>");
    assert_eq!(image.setting("WorkingDir"), "/work/sub");
    assert_eq!(image.setting("User"), "app");
    assert_eq!(
        image.text("tmp/out"),
        "/work/sub\nuid=1000(app) gid=1000(app) groups=50(extra),1000(app)\n"
    );
    assert_eq!(image.files()["work/sub"].kind, 'd');
}

#[test]
fn shell_forms_go_through_the_shell_and_a_new_entrypoint_drops_the_old_command() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nSHELL [\"/bin/ash\", \"-c\"]\nENTRYPOINT exec app $HOME\nHEALTHCHECK CMD check $X\nRUN echo $0 > /shell\n",
    );
    assert_eq!(image.setting("Entrypoint"), &json!(["/bin/ash", "-c", "exec app $HOME"]));
    assert_eq!(image.setting("Healthcheck")["Test"], json!(["CMD-SHELL", "check $X"]));
    assert!(
        image.setting("Cmd").is_null(),
        "the base image's command is gone: {}",
        image.setting("Cmd")
    );
    assert_eq!(image.text("shell"), "/bin/ash\n");
    let image = builder.image("FROM @busybox\nCMD echo $HOME\nHEALTHCHECK NONE\n");
    assert_eq!(image.setting("Cmd"), &json!(["/bin/sh", "-c", "echo $HOME"]));
    assert_eq!(image.setting("Healthcheck")["Test"], json!(["NONE"]));
}

#[test]
fn history_tells_every_instruction_and_counts_the_layers() {
    let builder = Builder::plain();
    let image = builder.image("FROM @busybox\nENV A=1\nRUN echo x > /x\nLABEL l=1\n");
    let history = image.config["history"].as_array().unwrap();
    let said: Vec<&str> =
        history.iter().map(|entry| entry["created_by"].as_str().unwrap()).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(
        said[1].contains("ENV A=1") && said[2].contains("RUN") && said[3].contains("LABEL l=1"),
        "{said:?}"
    );
    let empty = |index: usize| history[index]["empty_layer"] == true;
    assert!(empty(1) && !empty(2) && empty(3), "{history:?}");
    assert_eq!(image.depth(), 2);
    assert_eq!(image.config["os"], "linux");
    assert!(image.config["created"].is_string());
}

#[test]
fn triggers_run_in_the_image_that_builds_on_it() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let base = registry.reference("trigger:1");
    let context = Context::dockerfile(
        "FROM @busybox\nONBUILD COPY file /copied\nONBUILD RUN cat /copied > /ran\nONBUILD ENV FROM_TRIGGER=yes\n",
    );
    let pushed = builder.build(&context).arg("-t").arg(&base).args("--push").run().success();
    assert!(!pushed.mentions("COPY"), "a trigger does not run where it is defined");
    assert_eq!(
        registry.pull("trigger", "1").setting("OnBuild"),
        &json!(["COPY file /copied", "RUN cat /copied > /ran", "ENV FROM_TRIGGER=yes"])
    );
    let child = Context::new(&[
        ("Dockerfile", &format!("FROM {base}\nRUN echo $FROM_TRIGGER > /own\n")),
        ("file", "content"),
    ]);
    let image = builder.build(&child).image();
    assert_eq!(image.text("ran"), "content");
    assert_eq!(image.text("own"), "yes\n");
    assert!(image.setting("OnBuild").is_null(), "triggers fire once");
}

#[test]
fn labels_of_the_command_line_are_added() {
    let builder = Builder::plain();
    let context = Context::dockerfile("FROM scratch\nLABEL a=1 b=2\n");
    let image = builder.build(&context).args("--label b=3 --label c=4").image();
    assert_eq!(image.setting("Labels"), &json!({ "a": "1", "b": "3", "c": "4" }));
    assert_eq!(image.depth(), 0);
}

#[test]
fn a_builder_says_what_it_does_where_it_was_told_to() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let args = vec!["--debugaddr".to_owned(), free.to_string()];
    let builder = Builder::start(&Options { args, ..Options::default() });
    let ask = |path: &str| request("GET", &format!("http://{free}{path}"), &[], b"");
    let told = ask("/debug/pprof/");
    assert_eq!((told.status, told.body.as_slice()), (200, &b"builds: 0\n"[..]));
    assert_eq!(ask("/").status, 404, "nothing else is there");
    // Builds go on at the builder's own address.
    assert_eq!(builder.image("FROM scratch\nLABEL a=1\n").setting("Labels"), &json!({ "a": "1" }));
}

#[test]
fn a_declared_device_is_for_builds_that_were_allowed_it() {
    let dir = tempfile::tempdir().unwrap();
    let declared = json!({
        "cdiVersion": "0.6.0",
        "kind": "example.com/card",
        "devices": [{ "name": "one", "containerEdits": { "env": ["CARD=one"] } }],
    });
    std::fs::write(dir.path().join("card.json"), declared.to_string()).unwrap();
    let args = vec!["--cdi-spec-dir".to_owned(), dir.path().to_str().unwrap().to_owned()];
    let builder = Builder::start(&Options { args, ..Options::default() });
    let context =
        Context::dockerfile("FROM @busybox\nRUN --device=example.com/card=one echo card $CARD\n");
    let said = builder.build(&context).run().failure();
    assert!(said.contains("requested by the build but not allowed"), "{said}");
    let allowed = builder.build(&context).args("--allow device=example.com/card=one");
    assert_eq!(allowed.run().success().log("RUN "), "card one");
}
