//! `depot build`: outputs, secrets, failures, and what the API tells of them afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cofferdam_tests::{Context, Image, Registry, Server, digest, entries};
use serde_json::Value;

const SECRET: &str = "swordfish-of-the-server-tests";

fn context() -> Context {
    Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nCOPY hello /hello\nRUN echo said; wc -c < /hello > /count\nENV A=1\n",
        ),
        ("hello", "hello world\n"),
    ])
}

#[test]
fn directories_and_archives_come_out() {
    let server = Server::start();
    let project = server.project("outputs");
    let context = context();
    let out = tempfile::tempdir().unwrap();
    let to =
        |kind: &str, name: &str| format!("type={kind},dest={}", out.path().join(name).display());

    let _ = server.depot_build(&project, &context).arg("-o").arg(to("local", "files")).success();
    assert_eq!(fs::read_to_string(out.path().join("files/count")).unwrap(), "12\n");

    let _ = server.depot_build(&project, &context).arg("-o").arg(to("tar", "a.tar")).success();
    assert_eq!(entries(&fs::read(out.path().join("a.tar")).unwrap())["count"].text(), "12\n");

    let _ = server.depot_build(&project, &context).arg("-o").arg(to("oci", "oci.tar")).success();
    let image = Image::from_oci_archive(&out.path().join("oci.tar"));
    assert_eq!(image.text("count"), "12\n");
    assert!(image.env().contains(&"A=1"));

    let tagged = format!("{},name=demo/app:7", to("docker", "docker.tar"));
    let _ = server.depot_build(&project, &context).arg("-o").arg(tagged).success();
    let files = entries(&fs::read(out.path().join("docker.tar")).unwrap());
    let manifest: Value = serde_json::from_slice(&files["manifest.json"].content).unwrap();
    assert!(manifest[0]["RepoTags"][0].as_str().unwrap().ends_with("demo/app:7"), "{manifest}");
}

#[test]
fn a_build_is_recorded_step_by_step() {
    let server = Server::start();
    let project = server.project("recorded");
    let context = context();
    let first = server.depot_build(&project, &context).success();
    let build = server.newest_build(&project);
    let id = build["buildId"].as_str().unwrap();
    assert!(first.stderr.contains(&format!("/{id}")), "its URL is shown: {}", first.stderr);
    assert_eq!(build["status"], "STATUS_SUCCESS");
    for moment in ["createdAt", "startedAt", "finishedAt"] {
        assert!(build[moment].is_string(), "{moment}: {build}");
    }

    let steps = server.steps(&project, id);
    let step = |part: &str, steps: &[Value]| {
        let named = |step: &&Value| step["name"].as_str().unwrap().contains(part);
        steps.iter().find(named).unwrap_or_else(|| panic!("no {part}: {steps:?}")).clone()
    };
    let run = step("RUN echo said", &steps);
    assert_eq!(run["cacheState"], "CACHE_STATE_UNCACHED");
    assert_eq!(run["hasLogs"], true);
    assert!(run["startedAt"].is_string() && run["completedAt"].is_string(), "{run}");
    assert!(steps.iter().all(|step| step["error"].is_null() && step["startedAt"].is_string()));
    assert_eq!(server.logs(&project, id, run["digest"].as_str().unwrap()), ["said"]);
    assert_eq!(build["totalSteps"], steps.len());

    let _ = server.depot_build(&project, &context).success();
    let again = server.newest_build(&project);
    let steps = server.steps(&project, again["buildId"].as_str().unwrap());
    assert_eq!(step("RUN echo said", &steps)["cacheState"], "CACHE_STATE_CACHED");
    let cached = steps.iter().filter(|step| step["cacheState"] == "CACHE_STATE_CACHED").count();
    assert_eq!(again["cachedSteps"], cached);
}

/// Every path below a directory with what its file holds.
fn files(directory: &Path) -> BTreeMap<PathBuf, Option<String>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let name = path.strip_prefix(directory).unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                found.insert(name, None);
                todo.push(path);
            } else {
                found.insert(name, Some(fs::read_to_string(&path).unwrap_or_default()));
            }
        }
    }
    found
}

/// Depot's client describes it in two calls then, which it knows nothing of.
#[test]
fn a_large_context_arrives_as_it_is_however_often_it_changed() {
    let server = Server::start();
    let project = server.project("large");
    let context = Context::dockerfile("FROM scratch\nCOPY . /\n");
    for index in 0..4_400 {
        context.write(&format!("m/{}/f{index}", index % 4), "as it was");
    }
    let arrives = || {
        let out = tempfile::tempdir().unwrap();
        let to = format!("type=local,dest={}", out.path().display());
        let _ = server.depot_build(&project, &context).arg("-o").arg(to).success();
        assert!(files(out.path()) == files(context.path()), "something else arrived");
    };
    arrives();
    let kept = server.data().path().join("projects").join(&project.id);
    let parts = files(&kept).into_iter().filter(|(path, _)| path.ends_with("state/apart"));
    let parts: Vec<_> = parts.filter_map(|(_, parts)| parts).collect();
    assert_eq!(parts, ["m/0\nm/1\n"], "control: the next build asks for parts");
    arrives();
    // In either part something that is new, changed, gone, and of another kind.
    context
        .write("m/0/f0", "changed")
        .write("m/3/f3", "changed")
        .write("m/1/new/f", "")
        .write("n/f", "");
    for gone in ["m/1/f1", "m/2/f2", "m/0/f4", "m/3/f7"] {
        fs::remove_file(context.join(gone)).unwrap();
    }
    context.write("m/0/f4/below", "").write("m/3/f7/below", "");
    arrives();
    fs::remove_dir_all(context.join("m/0")).unwrap();
    context.write("m/0", "a file now");
    arrives();
}

#[test]
fn a_failing_build_says_why_everywhere() {
    let server = Server::start();
    let project = server.project("failing");
    let context = Context::dockerfile("FROM @busybox\nRUN echo before; exit 3\n");
    let said = server.depot_build(&project, &context).run().failure();
    assert!(said.contains("exit code: 3") && said.contains("before"), "{said}");
    let build = server.newest_build(&project);
    assert_eq!(build["status"], "STATUS_FAILED");
    let steps = server.steps(&project, build["buildId"].as_str().unwrap());
    let failed: Vec<_> = steps.iter().filter(|step| !step["error"].is_null()).collect();
    assert_eq!(failed.len(), 1, "{steps:?}");
    assert!(failed[0]["error"].as_str().unwrap().contains("exit code: 3"));
    let listed = server.depot().args("list builds --project").arg(&project.id).success().text();
    assert!(listed.contains("failed"), "{listed}");

    // A Dockerfile that is none fails before any step, and that is a failed build too.
    let broken = Context::dockerfile("FORM @busybox\n");
    let said = server.depot_build(&project, &broken).run().failure();
    assert!(said.contains("unknown instruction: FORM"), "{said}");
    assert_eq!(server.newest_build(&project)["status"], "STATUS_FAILED");
}

#[test]
fn secrets_and_arguments_reach_the_step_and_nothing_else() {
    let server = Server::start();
    let project = server.project("secret");
    let context = Context::dockerfile(
        "FROM @busybox\nARG NAME\nRUN --mount=type=secret,id=motto sha256sum < /run/secrets/motto > /sum; echo $NAME > /name\n",
    );
    let client = server.depot_build(&project, &context);
    let secret = client.file("motto", SECRET);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("oci.tar");
    let outcome = client
        .args("--build-arg NAME=given --secret")
        .arg(format!("id=motto,src={}", secret.display()))
        .arg("-o")
        .arg(format!("type=oci,dest={}", file.display()))
        .success();
    let image = Image::from_oci_archive(&file);
    assert_eq!(image.text("name"), "given\n");
    let sum = digest(SECRET.as_bytes());
    assert!(image.text("sum").starts_with(sum.trim_start_matches("sha256:")));
    assert!(!outcome.stderr.contains("swordfish"));
    let id = server.newest_id(&project);
    assert!(!format!("{:?}", server.steps(&project, &id)).contains("swordfish"));
    assert!(!server.log().contains("swordfish"));
}

#[test]
fn an_image_is_pushed_to_somebody_elses_registry() {
    let server = Server::start();
    let project = server.project("push");
    let registry = Registry::with_password();
    let context = context();
    let client = server.depot_build(&project, &context);
    let auth = cofferdam_tests::registry::basic(
        cofferdam_tests::registry::USER,
        cofferdam_tests::registry::PASSWORD,
    );
    let auths = serde_json::json!({ "auths": { registry.address(): { "auth": auth.trim_start_matches("Basic ") } } });
    client.file("config.json", &auths.to_string());
    let metadata = client.file("metadata.json", "");
    let outcome = client
        .args("--push -t")
        .arg(registry.reference("team/app:1"))
        .arg("--metadata-file")
        .arg(&metadata)
        .success();
    assert_eq!(registry.pull("team/app", "1").text("count"), "12\n", "{}", outcome.stderr);
}

#[test]
fn multi_stage_targets_and_platforms_are_chosen() {
    let server = Server::start();
    let project = server.project("stages");
    let context = Context::dockerfile(
        "FROM @busybox AS first\nRUN echo 1 > /n\nFROM first AS second\nRUN echo 2 > /n\n",
    );
    let out = tempfile::tempdir().unwrap();
    for (target, expected) in [("first", "1\n"), ("second", "2\n")] {
        let _ = server
            .depot_build(&project, &context)
            .args("--target")
            .arg(target)
            .arg("-o")
            .arg(out.path().join(target))
            .success();
        assert_eq!(fs::read_to_string(out.path().join(target).join("n")).unwrap(), expected);
    }
    let native = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
    let _ = server.depot_build(&project, &context).args("--platform").arg(native).success();
}

#[test]
fn an_index_for_several_platforms_is_pushed() {
    let server = Server::start();
    let project = server.project("platforms");
    let registry = Registry::start();
    // Nothing is run: steps of another architecture than the machine's cannot be.
    let context = Context::new(&[
        ("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY files/$TARGETARCH /arch\n"),
        ("files/amd64", "amd64"),
        ("files/arm64", "arm64"),
    ]);
    let _ = server
        .depot_build(&project, &context)
        .args("--platform linux/amd64,linux/arm64 --push -t")
        .arg(registry.reference("several:1"))
        .success();
    let (_, index) = registry.manifest("several", "1").unwrap();
    // The client asks for provenance by itself, which lies beside each image.
    let (attested, manifests): (Vec<_>, Vec<_>) =
        index["manifests"].as_array().unwrap().iter().partition(|manifest| {
            manifest["annotations"]["vnd.docker.reference.type"] == "attestation-manifest"
        });
    assert_eq!((attested.len(), manifests.len()), (2, 2), "{index}");
    for manifest in manifests {
        let image = registry.pull("several", manifest["digest"].as_str().unwrap());
        let architecture = manifest["platform"]["architecture"].as_str().unwrap();
        assert_eq!(image.text("arch"), architecture);
        assert_eq!(image.config["architecture"], architecture);
    }
}
