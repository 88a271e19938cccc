//! The builder of an ordinary user with subordinate ids.

use cofferdam_tests::marks::{appears, mark, sleeping};
use cofferdam_tests::{Builder, Context, Options, Registry, leftovers, need_root};

fn ordinary() -> Builder {
    // Only root can become another user; run by an ordinary user, every other test uses that user's builder.
    need_root();
    Builder::start(&Options { ordinary: true, ..Options::default() })
}

#[test]
fn an_ordinary_user_builds_pushes_and_caches() {
    let builder = ordinary();
    let registry = Registry::start();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nRUN id -u > /id && touch /owned && chown 1000:50 /owned && cat /proc/self/uid_map\nCOPY --chown=7:8 f /f\nUSER app\nRUN --network=none id > /tmp/app\n",
        ),
        ("f", "f"),
    ]);
    let outcome =
        builder.build(&context).args("--push -t").arg(registry.reference("app:1")).run().success();
    let image = registry.pull("app", "1");
    assert_eq!(image.text("id"), "0\n");
    assert_eq!((image.files()["owned"].uid, image.files()["owned"].gid), (1000, 50));
    assert_eq!((image.files()["f"].uid, image.files()["f"].gid), (7, 8));
    let map: Vec<String> =
        outcome.log("RUN id -u > /id").split_whitespace().map(str::to_owned).collect();
    assert_eq!(map[0], "0");
    assert_ne!(map[1], "0", "the step's root is not the builder's");
    let again = builder.build(&context).run().success();
    assert!(again.ran().is_empty(), "{:?}", again.ran());
}

#[test]
fn no_process_of_it_is_root_and_steps_have_ids_of_their_own() {
    let builder = ordinary();
    let mark = mark(46);
    let context = sleeping(&mark);
    let build = builder.build(&context).spawn();
    assert_eq!(appears(&mark), 1_500_000_000, "first of the subordinate ids");
    for pid in leftovers::tree(builder.pid()).keys() {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap().to_owned();
        assert!(ids.split_whitespace().all(|id| id != "0"), "process {pid}: {ids}");
    }
    build.interrupt();
    let _ = build.finish();
}

#[test]
fn without_subordinate_ids_the_error_names_what_is_missing() {
    need_root();
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(home.path(), Some(65_533), Some(65_533)).unwrap();
    let out = std::process::Command::new("setpriv")
        .args(["--reuid", "65533", "--regid", "65533", "--clear-groups"])
        .arg(cofferdam_tests::program())
        .args(["builder", "--addr", &format!("unix://{}/s", home.path().display()), "--root"])
        .arg(home.path().join("root"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        !out.status.success() && said.contains("/etc/subuid") && said.contains("65536"),
        "{said}"
    );
}
