//! Builds by a builder alone.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use cofferdam_tests::buildpacks::{FLOWS, Flow, Workshop};
use cofferdam_tests::http::{Request, Response, Server};
use cofferdam_tests::registry::{PASSWORD, USER};
use cofferdam_tests::{Agent, Build, Builder, Context, Outcome, Registry, images};

use super::{Hunt, Secret};
use crate::stage::{Stage, context, options};

/// Everything that a build said and wrote where it was told to.
struct Left {
    hunt: Hunt,
    builder: Builder,
    out: tempfile::TempDir,
    count: usize,
}

impl Left {
    fn new(stage: &Stage, secrets: &[&Secret]) -> Self {
        let mut hunt = Hunt::default();
        for secret in secrets {
            hunt.wanted(secret);
        }
        Self {
            hunt,
            builder: Builder::start(&options(stage.level)),
            out: tempfile::tempdir().unwrap(),
            count: 0,
        }
    }

    fn place(&self, name: &str) -> String {
        self.out.path().join(format!("{name}-{}", self.count)).display().to_string()
    }

    /// Runs a build with every kind of output that is a file, and looks at what it said.
    fn run(&mut self, what: &str, build: Build) -> Outcome {
        self.count += 1;
        let build = build
            .arg("--output")
            .arg(format!("type=oci,dest={}", self.place("image.tar")))
            .arg("--cache-to")
            .arg(format!("type=local,mode=max,dest={}", self.place("cache")))
            .arg("--metadata-file")
            .arg(self.place("metadata"));
        self.said(what, build.run())
    }

    fn said(&self, what: &str, outcome: Outcome) -> Outcome {
        self.hunt.unsaid(&format!("{what}: progress"), &outcome.stderr);
        self.hunt.unsaid(&format!("{what}: output"), &outcome.text());
        outcome
    }

    /// Looks at everything else, first while the builder runs.
    fn nothing(self) -> String {
        self.hunt.absent("outputs", self.out.path());
        self.hunt.unsaid("messages of the builder", &self.builder.log());
        self.hunt.absent("the running builder's directory", &self.builder.root());
        let count = self.count;
        let home = self.builder.stop();
        self.hunt.absent("the builder's directory", &home.root());
        format!("{count} builds with files, nothing found")
    }
}

pub(super) fn mounted(stage: &Stage) -> String {
    let [file, variable, other] = ["file", "variable", "other"].map(Secret::new);
    let agent = Agent::start();
    let key = Secret::known(agent.private_key().lines().nth(2).unwrap());
    let mut left = Left::new(stage, &[&file, &variable, &other, &key]);
    let planted =
        left.out.path().parent().unwrap().join(format!("walls-secret-{}", std::process::id()));
    std::fs::write(&planted, file.text()).unwrap();
    let used = "RUN --mount=type=secret,id=f,target=/deep/er/secret --mount=type=secret,id=v,env=TOKEN --mount=type=ssh \
        test $(cat /deep/er/secret | wc -c) -gt 9 && test ${#TOKEN} -gt 9 && /walls/probe ask-agent && sha256sum /deep/er/secret > /proof";
    let failing =
        "RUN --mount=type=secret,id=f --mount=type=secret,id=v,env=TOKEN echo before; exit 3";
    let missing = "RUN --mount=type=secret,id=f --mount=type=secret,id=absent,required true";
    let mut ran = Vec::new();
    for (what, text) in
        [("built", used), ("cached", used), ("failing", failing), ("missing", missing)]
    {
        let context = context(&[], text);
        let value = if what == "cached" { &other } else { &variable };
        let build = left
            .builder
            .build(&context)
            .arg("--secret")
            .arg(format!("id=f,src={}", planted.display()))
            .args("--secret id=v,env=PLANTED --ssh")
            .arg(format!("default={}", agent.socket().display()))
            .env("PLANTED", value.text());
        let outcome = left.run(what, build);
        ran.push(outcome.code == Some(0));
        if what == "built" {
            assert!(
                outcome.stderr.contains("bytes: true"),
                "control: the agent answered: {}",
                outcome.stderr
            );
        }
        if what == "cached" {
            assert!(outcome.ran().is_empty(), "another value changes no key: {:?}", outcome.ran());
        }
    }
    std::fs::remove_file(planted).unwrap();
    assert_eq!(ran, [true, true, false, false]);
    left.nothing()
}

pub(super) fn registry(stage: &Stage) -> String {
    let secret = Secret::known(PASSWORD);
    let wrong = Secret::new("wrong");
    let mut left = Left::new(stage, &[&secret, &wrong]);
    let registry = Registry::with_password();
    let (layer, config) = images::parts("busybox");
    registry.push_image("base", "1", &[layer], &config);
    let context = Context::dockerfile(&format!(
        "FROM {}\nRUN echo private > /p\n",
        registry.reference("base:1")
    ));
    for (what, password) in [("built", PASSWORD), ("cached", PASSWORD), ("refused", wrong.text())] {
        let build = left.builder.build(&context).login(registry.address(), USER, password);
        let outcome = left.run(what, build);
        assert_eq!(outcome.code == Some(0), what != "refused", "{}", outcome.stderr);
        for (cache, push) in [("inline", true), ("registry", true)] {
            let to = match cache {
                "inline" => "type=inline".to_owned(),
                _ => format!("type=registry,mode=max,ref={}", registry.reference("cache:1")),
            };
            let build = left
                .builder
                .build(&context)
                .login(registry.address(), USER, password)
                .arg("--cache-to")
                .arg(to);
            let build =
                if push { build.args("--push -t").arg(registry.reference("app:1")) } else { build };
            let outcome = left.said(cache, build.run());
            assert_eq!(outcome.code == Some(0), what != "refused", "{}", outcome.stderr);
        }
    }
    left.hunt.absent("the registry: images and caches", &registry.storage().join("data"));
    left.nothing()
}

/// A repository with a submodule by a relative URL, served to whoever has the password.
fn repositories(directory: &Path) {
    let script = "export GIT_CONFIG_GLOBAL=/dev/null; git init -q -b main inner && cd inner && git config user.email t@example.com && git config user.name t && echo i > i && git add . && git commit -qm i && cd .. && \
        git clone -q --bare inner inner.git && cd inner.git && git update-server-info && cd .. && \
        git init -q -b main work && cd work && git config user.email t@example.com && git config user.name t && \
        printf 'FROM scratch\\nCOPY . /all\\n' > Dockerfile && git add . && git commit -qm one && git branch plain && \
        printf '[submodule \"s\"]\\n\\tpath = s\\n\\turl = ../inner.git\\n' > .gitmodules && git add .gitmodules && git update-index --add --cacheinfo 160000,$(git -C ../inner rev-parse HEAD),s && git commit -qm sub && \
        git checkout -q -b broken && printf '[submodule \"s\"]\\n\\tpath = s\\n\\turl = ../gone.git\\n' > .gitmodules && git add . && git update-index --add --cacheinfo 160000,$(git -C ../inner rev-parse HEAD),s && git commit -qm broken && git checkout -q main -f && cd .. && \
        git clone -q --bare work repo.git && cd repo.git && git update-server-info";
    let out = Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Serves a directory to whoever is one of these, as `user:password`.
pub(super) fn guarded(directory: &Path, users: &[String]) -> Server {
    let directory = directory.to_owned();
    let wanted: Vec<String> = users
        .iter()
        .map(|user| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(user)))
        .collect();
    Server::start(move |request: &Request| {
        let given = request.header("authorization").unwrap_or_default();
        if !wanted.iter().any(|wanted| given.eq_ignore_ascii_case(wanted)) {
            return Response::status(401).with("www-authenticate", "Basic realm=\"walls\"");
        }
        let path = request.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        std::fs::read(directory.join(path)).map_or_else(|_| Response::status(404), Response::ok)
    })
}

pub(super) fn git(stage: &Stage) -> String {
    let directory = tempfile::tempdir().unwrap();
    repositories(directory.path());
    let [token, password, wrong] = ["token", "password", "wrong"].map(Secret::new);
    let mut left = Left::new(stage, &[&token, &password, &wrong]);
    let users =
        [format!("x-access-token:{}", token.text()), format!("builder:{}", password.text())];
    let server = guarded(directory.path(), &users);
    let host = server.address();
    let with =
        |secret: &Secret, name: &str| format!("http://builder:{}@{host}/{name}", secret.text());
    let none = |name: &str| format!("http://{host}/{name}");
    for (what, url, good) in [
        ("context by token", none("repo.git#plain"), true),
        ("context with a submodule", none("repo.git#main"), true),
        ("context by password", with(&password, "repo.git#plain"), true),
        ("submodule by password", with(&password, "repo.git#main"), true),
        ("broken submodule", with(&password, "repo.git#broken"), false),
        ("wrong password", with(&wrong, "repo.git#plain"), false),
        ("no such branch", with(&password, "repo.git#nowhere"), false),
        ("no such repository", with(&password, "gone.git#main"), false),
    ] {
        let build = Build::new(Some(&left.builder.address()), &url);
        let build = if what.contains("token") || what == "context with a submodule" {
            build.args("--secret id=GIT_AUTH_TOKEN,env=PLANTED").env("PLANTED", token.text())
        } else {
            build
        };
        let outcome = left.run(what, build);
        assert_eq!(outcome.code == Some(0), good, "{what}: {}", outcome.stderr);
    }
    for (what, url, good) in [
        ("ADD", with(&password, "repo.git#plain"), true),
        ("ADD that is wrong", with(&wrong, "repo.git#plain"), false),
    ] {
        let context =
            Context::dockerfile(&format!("FROM scratch\nADD --keep-git-dir=true {url} /app\n"));
        let build = left.builder.build(&context);
        let outcome = left.run(what, build);
        assert_eq!(outcome.code == Some(0), good, "{what}: {}", outcome.stderr);
    }
    left.nothing()
}

pub(super) fn url(stage: &Stage) -> String {
    let [password, wrong] = ["password", "wrong"].map(Secret::new);
    let mut left = Left::new(stage, &[&password, &wrong]);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "content").unwrap();
    let server = guarded(directory.path(), &[format!("builder:{}", password.text())]);
    let host = server.address();
    for (what, secret, name, good) in [
        ("download", &password, "file", true),
        ("wrong password", &wrong, "file", false),
        ("nothing there", &password, "gone", false),
    ] {
        let url = format!("http://builder:{}@{host}/{name}", secret.text());
        let context = Context::dockerfile(&format!("FROM scratch\nADD {url} /file\n"));
        let build = left.builder.build(&context);
        let outcome = left.run(what, build);
        assert_eq!(outcome.code == Some(0), good, "{what}: {}", outcome.stderr);
    }
    left.nothing()
}

pub(super) fn buildpacks(stage: &Stage) -> String {
    let mut hunt = Hunt::default();
    hunt.wanted(&Secret::known(PASSWORD));
    let workshop = Workshop::with(&options(stage.level));
    let build = "mkdir -p $CNB_LAYERS_DIR/l; env > $CNB_LAYERS_DIR/l/env; printf '[types]\\nlaunch = true\\ncache = true\\n' > $CNB_LAYERS_DIR/l.toml";
    workshop.buildpack("plain", "exit 0", build);
    workshop.buildpack("failing", "exit 0", "env; exit 9");
    let (builder, failing) =
        (workshop.image("builder", &["plain"]), workshop.image("failing", &["failing"]));
    let registry = Registry::with_password();
    let (layer, config) = images::parts("busybox");
    registry.push_image("base", "1", std::slice::from_ref(&layer), &config);
    registry.push_image("newer", "1", &[layer], &config);
    let app = Context::new(&[("file", "of the app")]);
    let login = |build: Build| build.login(registry.address(), USER, PASSWORD);
    let mut rebased = 0;
    for flow in FLOWS {
        let name = registry.reference(&format!("app-{}:1", flow.name()));
        for (builder, good) in [(&builder, true), (&builder, true), (&failing, false)] {
            let build = login(workshop.daemon().build(&app)).arg("--builder").arg(builder);
            let build = build
                .arg("--run-image")
                .arg(registry.reference("base:1"))
                .arg("--push")
                .arg("--tag")
                .arg(&name);
            let build = if flow == Flow::Trusted { build.arg("--trust-builder") } else { build };
            let outcome = build.run();
            hunt.unsaid("buildpacks", &outcome.stderr);
            assert_eq!(outcome.code == Some(0), good, "{}", outcome.stderr);
        }
        for password in [PASSWORD, "wrong"] {
            let rebase = workshop.command("rebase");
            let auth = cofferdam_tests::registry::basic(USER, password);
            rebase.file("config.json", &serde_json::json!({ "auths": { registry.address(): { "auth": auth.trim_start_matches("Basic ") } } }).to_string());
            let outcome = rebase
                .arg(&name)
                .arg("--push")
                .arg("--run-image")
                .arg(registry.reference("newer:1"))
                .arg("--force")
                .run();
            hunt.unsaid("rebase", &outcome.stderr);
            rebased += usize::from(outcome.code == Some(0));
        }
    }
    assert_eq!(rebased, 2, "control: with the password it works");
    hunt.absent("the registry: images and caches", &registry.storage().join("data"));
    hunt.unsaid("messages of the builder", &workshop.daemon().log());
    hunt.absent("the builder's directory", &workshop.daemon().root());
    "6 builds and 4 rebases, nothing found".to_owned()
}
