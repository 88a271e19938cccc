//! ADD: URLs, archives, git repositories.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use cofferdam_tests::http::{Response, Server};
use cofferdam_tests::{Builder, Context, digest, sh};

fn tarball() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o640);
    header.set_uid(7);
    header.set_gid(8);
    header.set_size(6);
    tar.append_data(&mut header, "inside/file", &b"inside"[..]).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn local_archives_are_unpacked_whatever_their_compression() {
    let builder = Builder::plain();
    let context = Context::new(&[(
        "Dockerfile",
        "FROM scratch\nADD plain.tar /plain/\nADD a.tar.gz /gz/\nADD a.tar.zst /zst/\nADD a.tar.bz2 /bz2/\nADD a.tar.xz /xz/\nCOPY plain.tar /kept/\nADD text /text\n",
    )]);
    context.write("plain.tar", tarball()).write("text", "no archive");
    let packed = cofferdam_tests::images::layer(&tarball());
    context
        .write("a.tar.gz", packed.bytes)
        .write("a.tar.zst", zstd::encode_all(&*tarball(), 1).unwrap());
    for (program, name) in [("bzip2", "a.tar.bz2"), ("xz", "a.tar.xz")] {
        let out = Command::new(program).arg("-c").arg(context.join("plain.tar")).output().unwrap();
        assert!(out.status.success());
        context.write(name, out.stdout);
    }
    let files = builder.build(&context).tar();
    for directory in ["plain", "gz", "zst", "bz2", "xz"] {
        let file = &files[&format!("{directory}/inside/file")];
        assert_eq!(
            (file.text().as_str(), file.uid, file.gid, file.mode),
            ("inside", 7, 8, 0o640),
            "{directory}"
        );
    }
    assert_eq!(files["kept/plain.tar"].content, tarball(), "COPY unpacks nothing");
    assert_eq!(files["text"].text(), "no archive");
}

#[test]
fn a_url_is_downloaded_once_and_asked_again_only_whether_it_changed() {
    let builder = Builder::plain();
    let server = Server::start(|request| {
        if request.header("if-none-match") == Some("\"v1\"") {
            return Response::status(304).with("etag", "\"v1\"");
        }
        Response::ok("downloaded")
            .with("etag", "\"v1\"")
            .with("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT")
    });
    let context = Context::dockerfile(&format!(
        "FROM scratch\nADD {} /file\nADD --chmod=755 --chown=3:4 {} /dir/\n",
        server.url("a/name.txt"),
        server.url("b.txt")
    ));
    let files = builder.build(&context).tar();
    let file = &files["file"];
    assert_eq!(
        (file.text().as_str(), file.mode, file.uid, file.mtime),
        ("downloaded", 0o600, 0, 1_445_412_480)
    );
    let chosen = &files["dir/b.txt"];
    assert_eq!((chosen.mode, chosen.uid, chosen.gid), (0o755, 3, 4));
    let before = server.seen().len();
    let outcome = builder.build(&context).run().success();
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    let later: Vec<_> = server.seen().split_off(before);
    assert!(
        later
            .iter()
            .all(|request| request.method == "HEAD" || request.header("if-none-match").is_some()),
        "{later:?}"
    );
}

#[test]
fn a_checksum_holds_a_download_to_its_content() {
    let builder = Builder::plain();
    let server = Server::start(|_| Response::ok("downloaded"));
    let good = Context::dockerfile(&format!(
        "FROM scratch\nADD --checksum={} {} /file\n",
        digest(b"downloaded"),
        server.url("f")
    ));
    assert_eq!(builder.build(&good).tar()["file"].text(), "downloaded");
    let bad = Context::dockerfile(&format!(
        "FROM scratch\nADD --checksum={} {} /file\n",
        digest(b"other"),
        server.url("g")
    ));
    let error = builder.build(&bad).run().failure();
    assert!(error.contains("mismatch") && error.contains("Dockerfile:2"), "{error}");
}

/// A repository served by files alone: any web server can.
fn repository(directory: &Path) -> String {
    let script = "git init -q -b main work && cd work && git config user.email t@example.com && git config user.name t && \
        mkdir sub && printf 'FROM scratch\\nCOPY file /f\\n' > Dockerfile && echo one > file && echo sub > sub/inner && git add . && git commit -qm one && git tag v1 && \
        echo two > file && git commit -qam two && git checkout -q --detach && cd .. && git clone -q --bare work repo.git && \
        cd repo.git && git update-server-info && git rev-parse v1";
    sh(directory, script)
}

#[test]
fn git_repositories_by_branch_tag_commit_and_directory() {
    let directory = tempfile::tempdir().unwrap();
    let commit = repository(directory.path());
    let server = Server::files(directory.path());
    let url = server.url("repo.git");
    let builder = Builder::plain();
    let context = Context::dockerfile(&format!(
        "FROM scratch\nADD {url} /head\nADD {url}#v1 /tag\nADD {url}#{commit} /commit\nADD {url}#main:sub /sub\nADD --keep-git-dir=true {url}#v1 /kept\n"
    ));
    let files = builder.build(&context).tar();
    assert_eq!(files["head/file"].text(), "two\n");
    assert_eq!(files["tag/file"].text(), "one\n");
    assert_eq!(files["commit/file"].text(), "one\n");
    assert_eq!(files["sub/inner"].text(), "sub\n");
    assert!(!files.contains_key("head/.git") && files.contains_key("kept/.git/HEAD"));
    let again = builder.build(&context).run().success();
    assert!(again.ran().is_empty(), "{:?}", again.ran());
}

#[test]
fn a_repository_is_a_context() {
    let directory = tempfile::tempdir().unwrap();
    let _ = repository(directory.path());
    let server = Server::files(directory.path());
    let builder = Builder::plain();
    let build = |reference: &str| {
        cofferdam_tests::Build::new(Some(&builder.address()), &server.url(reference)).tar()
    };
    assert_eq!(build("repo.git")["f"].text(), "two\n");
    assert_eq!(build("repo.git#v1")["f"].text(), "one\n");
}

#[test]
fn a_branch_that_moves_during_a_build_is_what_it_was_first() {
    let directory = tempfile::tempdir().unwrap();
    let first = repository(directory.path());
    let root = directory.path().to_owned();
    let asked = AtomicBool::new(false);
    let server = Server::start(move |request| {
        let path = request.path.split('?').next().unwrap_or_default().trim_start_matches('/');
        let Ok(bytes) = std::fs::read(root.join(path)) else { return Response::status(404) };
        if path != "repo.git/info/refs" || asked.swap(true, Ordering::SeqCst) {
            return Response::ok(bytes);
        }
        let now = String::from_utf8(bytes).unwrap();
        let mut before = String::new();
        for line in now.lines() {
            let main = line.ends_with("\trefs/heads/main");
            before.push_str(&if main { format!("{first}\trefs/heads/main") } else { line.into() });
            before.push('\n');
        }
        Response::ok(before)
    });
    let builder = Builder::plain();
    let url = server.url("repo.git");
    let context = Context::dockerfile(&format!("FROM scratch\nADD {url}#main /repo\n"));
    assert_eq!(builder.build(&context).tar()["repo/file"].text(), "one\n");
    assert_eq!(builder.build(&context).tar()["repo/file"].text(), "two\n", "the key led astray");
}
