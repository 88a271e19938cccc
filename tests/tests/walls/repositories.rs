//! Git: options in refs and URLs, other protocols, directories that leave the checkout, submodules, hooks, redirects.

use std::fs;
use std::path::Path;
use std::process::Command;

use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Build, Context, sh};

use crate::attack::{Attack, Control, ONCE, own};
use crate::planted::TEXT;
use crate::stage::Stage;

pub(crate) const ATTACKS: &[Attack] = &[
    own(
        "git",
        "git-options",
        "CVE-2017-1000117, CVE-2018-17456: URLs and refs that are options",
        ONCE,
        arguments,
        executed,
    ),
    own(
        "git",
        "git-protocols",
        "CVE-2022-39253: file, ext and other protocols",
        ONCE,
        protocols,
        executed,
    ),
    own(
        "git",
        "git-directories",
        "CVE-2026-33748: a subdirectory with dots or a link",
        ONCE,
        directories,
        followed,
    ),
    own(
        "git",
        "git-symref",
        "CVE-2026-15789 and others: HEAD of the server is an option",
        ONCE,
        symref,
        executed,
    ),
    own(
        "git",
        "git-submodules",
        "CVE-2024-32002, CVE-2025-48384: submodules that bring hooks or other protocols",
        ONCE,
        submodules,
        executed,
    ),
    own(
        "git",
        "git-redirects",
        "CVE-2026-41506: a redirect to another host takes the credential along",
        ONCE,
        redirects,
        trusting,
    ),
];

/// A repository `repo.git` for plain web servers, with a file, after `more` was done in its work tree.
fn repository(directory: &Path, more: &str) -> Server {
    sh(
        directory,
        &format!(
            "git init -q -b main work && cd work && git config user.email t@example.com && git config user.name t && \
         printf 'FROM scratch\\nCOPY . /all\\n' > Dockerfile && mkdir sub && echo f > sub/file && git add . && git commit -qm one && {more} && cd .. && \
         git clone -q --bare work repo.git && cd repo.git && git update-server-info"
        ),
    );
    Server::files(directory)
}

/// Builds a URL as a context and by ADD. What came out of it as a tar, and what was said.
fn tried(stage: &Stage, url: &str) -> Vec<(Option<i32>, String)> {
    let quoted = url.replace('\\', "\\\\").replace('"', "\\\"");
    let add = Context::dockerfile(&format!("FROM scratch\nADD [\"{quoted}\", \"/in\"]\n"));
    let builds = [Build::new(Some(&stage.builder.address()), url), stage.builder.build(&add)];
    let said = |build: Build| {
        let outcome = build.args("--output type=tar,dest=-").run();
        (outcome.code, format!("{}{}", String::from_utf8_lossy(&outcome.stdout), outcome.stderr))
    };
    builds.into_iter().map(said).collect()
}

fn marker(stage: &Stage) -> String {
    stage.planted.open().join("planted-by-git").display().to_string()
}

/// Panics when one of these did anything but fail.
fn all_refused(stage: &Stage, urls: &[String]) -> String {
    for url in urls {
        for (code, said) in tried(stage, url) {
            assert_ne!(code, Some(0), "{url}: {said}");
            assert!(!said.contains(TEXT) && !said.contains("panicked"), "{url}: {said}");
        }
        stage.planted.unchanged();
    }
    format!("{} refused", urls.len())
}

fn arguments(stage: &Stage) -> String {
    let directory = tempfile::tempdir().unwrap();
    let server = repository(directory.path(), "true");
    let (url, run) = (server.url("repo.git"), format!("touch {}", marker(stage)));
    let run = run.replace(' ', "${IFS}");
    let refs = [
        format!("--upload-pack={run}"),
        format!("--upload-pack={run};:sub"),
        "--output=/tmp/x".to_owned(),
        "-oProxyCommand=x".to_owned(),
        "--help".to_owned(),
        "../../x".to_owned(),
        "main\n--upload-pack=x".to_owned(),
        "refs/heads/main:refs/heads/../../hooks/x".to_owned(),
    ];
    let mut urls: Vec<String> = refs.iter().map(|name| format!("{url}#{name}")).collect();
    urls.extend([
        format!("-u{run}@example.com:x.git"),
        format!("ssh://-oProxyCommand={run}/x.git"),
        format!("git@-oProxyCommand={run}:x.git"),
        format!("ssh://git@-oProxyCommand={run}/x.git"),
        format!("--upload-pack={run}.git"),
        format!("git://-oProxyCommand={run}/x.git"),
    ]);
    let good = tried(stage, &format!("{url}#main"));
    assert!(good.iter().all(|(code, _)| *code == Some(0)), "control: {good:?}");
    all_refused(stage, &urls)
}

fn executed(_: &Stage) -> Control {
    let directory = tempfile::tempdir().unwrap();
    sh(directory.path(), "git init -q --bare repo.git");
    let _ = Command::new("git")
        .args(["ls-remote", "--upload-pack=touch executed;false", "repo.git"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(directory.path().join("executed").exists());
    let _ = Command::new("git")
        .args(["-c", "protocol.ext.allow=always", "ls-remote", "ext::touch also"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(directory.path().join("also").exists());
    Control::Shown("git runs what such an option or protocol says".to_owned())
}

fn protocols(stage: &Stage) -> String {
    let directory = tempfile::tempdir().unwrap();
    let _server = repository(directory.path(), "true");
    let path = directory.path().join("repo.git");
    let path = path.display();
    let run = marker(stage);
    all_refused(
        stage,
        &[
            format!("file://{path}"),
            format!("file://localhost{path}"),
            format!("ext::touch {run} .git"),
            format!("ext::touch%20{run}.git"),
            format!("fd::17/{path}"),
            format!("transport-helper::{path}"),
            format!("http+unix://{path}"),
            format!("git://ext::touch {run}/x.git"),
        ],
    )
}

fn directories(stage: &Stage) -> String {
    let directory = tempfile::tempdir().unwrap();
    let canary = stage.planted.closed();
    let server = repository(
        directory.path(),
        &format!(
            "ln -s {canary} link && ln -s ../../../../../../../..{canary} up && ln -s link again && ln -s /proc/self/root root && ln -s .git/ dotgit && git add . && git commit -qm links",
            canary = canary.display()
        ),
    );
    let url = server.url("repo.git");
    let mut seen = 0;
    for part in [
        "../..",
        "sub/../..",
        "..",
        "/../..",
        "link",
        "up",
        "again",
        "root",
        "root/etc",
        "link/",
        "sub/../../../etc",
        "dotgit",
        ".git",
        ".git/hooks",
    ] {
        for (code, said) in tried(stage, &format!("{url}#main:{part}")) {
            assert!(!said.contains(TEXT) && !said.contains("root:x:"), "{part}: {said}");
            seen += u32::from(code == Some(0));
        }
    }
    let good = tried(stage, &format!("{url}#main:sub"));
    // A context has no Dockerfile there; ADD takes what there is.
    assert_eq!(good[1].0, Some(0), "control: {good:?}");
    // Links in a checkout that COPY is asked for are the checkout's own.
    let context = Context::dockerfile(&format!(
        "FROM scratch AS git\nADD {url}#main /in\nFROM scratch\nCOPY --from=git /in/link/ /out/\nCOPY --from=git /in/up/file /out/\n"
    ));
    let outcome = stage.builder.build(&context).args("--output type=tar,dest=-").run();
    assert!(!String::from_utf8_lossy(&outcome.stdout).contains(TEXT));
    format!("28 tried, {seen} answered with files of the repository")
}

fn followed(stage: &Stage) -> Control {
    let directory = tempfile::tempdir().unwrap();
    let canary = stage.planted.closed();
    let _server = repository(
        directory.path(),
        &format!("ln -s {} link && git add . && git commit -qm link", canary.display()),
    );
    sh(directory.path(), "git clone -q repo.git checkout");
    let text = fs::read_to_string(directory.path().join("checkout/link/file")).unwrap();
    assert!(text.contains(TEXT));
    Control::Shown("a tool that joins paths leaves the checkout".to_owned())
}

fn symref(stage: &Stage) -> String {
    let run = marker(stage);
    for head in [
        format!("--upload-pack=touch {run}"),
        "-x".into(),
        "../../../x".into(),
        "refs/heads/--help".into(),
        "refs/heads/\u{1b}[2Jx".into(),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let server = repository(directory.path(), "true");
        let repo = directory.path().join("repo.git");
        fs::write(repo.join("HEAD"), format!("ref: {head}\n")).unwrap();
        let refs = fs::read_to_string(repo.join("info/refs")).unwrap();
        let commit = refs.split_whitespace().next().unwrap().to_owned();
        fs::write(repo.join("info/refs"), format!("{refs}{commit}\t{head}\n")).unwrap();
        for (_, said) in tried(stage, &server.url("repo.git")) {
            assert!(!said.contains('\u{1b}'), "{said:?}");
        }
        stage.planted.unchanged();
    }
    "never an argument".to_owned()
}

fn submodules(stage: &Stage) -> String {
    let run = marker(stage);
    let mut refused = 0;
    let modules = [
        ("ext", format!("ext::touch {run}"), "s"),
        ("file", "file:///etc/.git".to_owned(), "s"),
        ("path", "/etc".to_owned(), "s"),
        ("option", format!("--upload-pack=touch {run}"), "s"),
        ("ssh", format!("ssh://-oProxyCommand=touch${{IFS}}{run}/x"), "s"),
        ("hooks", "../repo.git".to_owned(), ".git/hooks"),
        ("up", "../repo.git".to_owned(), "../../s"),
        ("return", "../repo.git".to_owned(), "s\\r"),
    ];
    for (what, url, path) in &modules {
        let directory = tempfile::tempdir().unwrap();
        // What is refused on the way in is written into the tree by other means.
        let server = repository(
            directory.path(),
            &format!(
                "printf '[submodule \"m\"]\\n\\tpath = \"{path}\"\\n\\turl = %s\\n\\tupdate = !touch {run}\\n' '{url}' > .gitmodules && git add .gitmodules && \
                 (git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),'{path}' 2>/dev/null || git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),s) && git commit -qm {what}"
            ),
        );
        for (code, said) in tried(stage, &server.url("repo.git#main")) {
            refused += u32::from(code != Some(0));
            assert!(!said.contains("root:x:") && !said.contains(TEXT), "{what}: {said}");
        }
        stage.planted.unchanged();
    }
    // A hook that arrives with the files does not run either.
    let directory = tempfile::tempdir().unwrap();
    let server = repository(
        directory.path(),
        &format!(
            "mkdir -p hooks .githooks && printf '#!/bin/sh\\ntouch {run}\\n' > hooks/post-checkout && chmod 755 hooks/post-checkout && cp hooks/post-checkout .githooks/ && printf '* filter=evil\\n' > .gitattributes && git add . && git commit -qm hooks"
        ),
    );
    let _ = tried(stage, &server.url("repo.git#main"));
    stage.planted.unchanged();
    format!("{refused} of {} builds refused, nothing was executed", 2 * modules.len())
}

/// Sends whoever asks for the repository to another host.
fn moved(to: &str) -> Server {
    let to = to.to_owned();
    Server::start(move |request| {
        if request.header("authorization").is_none() {
            return Response::status(401).with("www-authenticate", "Basic realm=\"x\"");
        }
        Response::status(302).with("location", format!("http://{to}{}", request.path))
    })
}

fn redirects(stage: &Stage) -> String {
    let stranger = Server::start(|_| Response::status(404));
    let server = moved(&stranger.address());
    let token = "planted-token-of-a-git-host";
    for build in [
        Build::new(Some(&stage.builder.address()), &server.url("repo.git#main"))
            .args("--secret id=GIT_AUTH_TOKEN,env=T")
            .env("T", token),
        Build::new(
            Some(&stage.builder.address()),
            &format!("http://u:{token}@{}/repo.git#main", server.address()),
        ),
    ] {
        let error = build.run().failure();
        assert!(!error.contains(token), "{error}");
    }
    assert!(
        server.seen().iter().any(|request| request.header("authorization").is_some()),
        "control: its own host gets it"
    );
    for request in stranger.seen() {
        assert!(request.header("authorization").is_none(), "{request:?}");
    }
    format!("the stranger was asked {} times, never with the token", stranger.seen().len())
}

fn trusting(_: &Stage) -> Control {
    let stranger = Server::start(|_| Response::status(404));
    let server = moved(&stranger.address());
    let _ = Command::new("curl")
        .args(["-sL", "--location-trusted", "-u", "u:token", &server.url("repo.git/info/refs")])
        .output()
        .unwrap();
    assert!(stranger.seen().iter().any(|request| request.header("authorization").is_some()));
    Control::Shown("a client that trusts redirects sends its password".to_owned())
}
