//! COPY: sources, destinations, owners, modes, patterns, links.

use cofferdam_tests::{Builder, Context};

#[test]
fn files_directories_and_patterns_arrive_where_they_should() {
    let builder = Builder::plain();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM scratch\nCOPY one /renamed\nCOPY one two /into/\nCOPY dir /contents\nCOPY *.txt /globbed/\nCOPY d?r/[a-b] /classes/\n\
             COPY [\"a file\", \"/with space\"]\nWORKDIR /work\nCOPY one rel\nCOPY one ./sub/\nCOPY link /link-target\nCOPY dirlinks /dirlinks\n",
        ),
        ("one", "1"),
        ("two", "2"),
        ("dir/a", "a"),
        ("dir/b", "b"),
        ("dir/c/deep", "deep"),
        ("x.txt", "x"),
        ("y.txt", "y"),
        ("z.md", "z"),
        ("a file", "space"),
        ("dirlinks/target", "t"),
    ]);
    context.link("link", "one").link("dirlinks/l", "target").mode("two", 0o755);
    let image = builder.build(&context).image();
    let files = image.files();
    for (path, wanted) in [
        ("renamed", "1"),
        ("into/one", "1"),
        ("into/two", "2"),
        ("contents/a", "a"),
        ("contents/c/deep", "deep"),
        ("globbed/x.txt", "x"),
        ("globbed/y.txt", "y"),
        ("classes/a", "a"),
        ("classes/b", "b"),
        ("with space", "space"),
        ("work/rel", "1"),
        ("work/sub/one", "1"),
        ("link-target", "1"),
    ] {
        assert_eq!(image.text(path), wanted, "{path}");
    }
    assert!(!files.contains_key("globbed/z.md"));
    assert_eq!(files["dirlinks/l"].link, "target", "links below a directory stay links");
    assert_eq!(files["into/two"].mode, 0o755);
    assert_eq!((files["into/one"].uid, files["into/one"].gid), (0, 0));
}

#[test]
fn owners_and_modes_can_be_chosen() {
    let builder = Builder::plain();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nCOPY --chown=app:extra --chmod=640 f /named\nCOPY --chown=12:34 d /numbers\nCOPY --chown=app f /user-only\nCOPY --chmod=u=rwx,go=r f /symbolic\n\
             COPY --chmod=0755 d /modes\n",
        ),
        ("f", "f"),
        ("d/g", "g"),
    ]);
    let files = builder.build(&context).image().files();
    let of = |path: &str| (files[path].uid, files[path].gid, files[path].mode);
    assert_eq!(of("named"), (1000, 50, 0o640));
    assert_eq!((of("numbers").0, of("numbers").1), (12, 34));
    assert_eq!((of("numbers/g").0, of("numbers/g").1), (12, 34));
    assert_eq!((of("user-only").0, of("user-only").1), (1000, 1000));
    assert_eq!(of("symbolic").2, 0o744);
    assert_eq!((of("modes").2, of("modes/g").2), (0o755, 0o755));
}

#[test]
fn linked_copies_are_layers_of_their_own() {
    let builder = Builder::plain();
    let context = Context::new(&[
        (
            "Dockerfile",
            "ARG BASE=@busybox\nFROM ${BASE}\nARG MARK\nRUN echo $MARK > /mark\nCOPY --link dir /a/b/\nCOPY --link --chown=5:6 one /two\n",
        ),
        ("dir/x", "x"),
        ("one", "1"),
    ]);
    let first = builder.build(&context).args("--build-arg MARK=1").image();
    assert_eq!(first.text("a/b/x"), "x");
    assert_eq!(first.files()["two"].uid, 5);
    let (outcome, second) = builder.build(&context).args("--build-arg MARK=2").image_with("");
    let copied: Vec<String> =
        outcome.ran().into_iter().filter(|name| !name.contains("LINK ")).collect();
    assert_eq!(copied.len(), 1, "only the RUN line depends on the mark: {copied:?}");
    let top = |image: &cofferdam_tests::Image| {
        image.layers[2..]
            .iter()
            .map(|layer| cofferdam_tests::digest(&layer.bytes))
            .collect::<Vec<_>>()
    };
    assert_eq!(top(&first), top(&second), "the copies are the same layers on another base");
}

#[test]
fn parents_are_kept_and_exclusions_left_out() {
    let builder = Builder::plain();
    let context = Context::new(&[
        (
            "Dockerfile",
            "# syntax=docker/dockerfile:1-labs\nFROM scratch\nCOPY --parents a/b/one a/two /p/\nCOPY --parents a/./b/one /pivot/\nCOPY --parents **/*.rs /all/\n\
             COPY --exclude=*.log --exclude=skip src /src\n",
        ),
        ("a/b/one", "1"),
        ("a/two", "2"),
        ("a/lib.rs", "lib"),
        ("src/main.rs", "main"),
        ("src/x.log", "log"),
        ("src/skip/y", "y"),
        ("src/keep/z.log", "z"),
        ("src/keep/k", "k"),
    ]);
    let files = builder.build(&context).tar();
    for path in [
        "p/a/b/one",
        "p/a/two",
        "pivot/b/one",
        "all/a/lib.rs",
        "all/src/main.rs",
        "src/main.rs",
        "src/keep/k",
    ] {
        assert!(files.contains_key(path), "{path} is missing: {:?}", files.keys());
    }
    for path in ["p/one", "pivot/a", "src/x.log", "src/skip", "src/skip/y"] {
        assert!(!files.contains_key(path), "{path} should not be there: {:?}", files.keys());
    }
}

#[test]
fn directories_that_are_there_keep_what_they_are_and_show_nothing_that_was_removed() {
    let builder = Builder::plain();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nWORKDIR /work\nRUN mkdir -p -m 700 /deep/er /gone/x /full && chown 7:8 /deep/er && chmod 711 /deep && touch /gone/x/old /full/old\n\
             RUN rm -r /gone/x && ln -s deep /link\nCOPY src .\nCOPY src /deep/er\nCOPY src /gone\nCOPY src /full\nCOPY src /link/new\nCOPY src/x/f /deep/er/\n\
             RUN find /work /deep /gone /full /link | sort > /found && stat -c '%a %u %g %n' /deep /deep/er /deep/new > /attributes\n",
        ),
        ("src/x/f", "1"),
        ("src/g", "2"),
    ]);
    let image = builder.build(&context).image();
    let of = |top: &str, more: &[&str]| {
        let mut paths: Vec<String> =
            ["", "/g", "/x", "/x/f"].iter().map(|path| format!("{top}{path}")).collect();
        paths.extend(more.iter().map(|path| format!("{top}{path}")));
        paths
    };
    let mut wanted = [
        of("/work", &[]),
        of("/gone", &[]),
        of("/full", &["/old"]),
        of("/deep/er", &["/f"]),
        of("/deep/new", &[]),
    ]
    .concat();
    wanted.extend(["/deep".to_owned(), "/link".to_owned()]);
    wanted.sort();
    let found = image.text("found");
    let mut found: Vec<&str> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, wanted);
    assert_eq!(image.text("attributes"), "711 0 0 /deep\n700 7 8 /deep/er\n755 0 0 /deep/new\n");
    let files = image.files();
    assert!(!files.contains_key("gone/x/old") && files.contains_key("gone/x/f"));
    assert_eq!((files["deep/er"].uid, files["deep/er"].mode), (7, 0o700));
}

#[test]
fn directories_of_a_step_are_made_upon_what_is_below() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nWORKDIR /new/er\nRUN mkdir -p -m 700 /gone/old /kept && chown 7:8 /kept && touch /kept/file /plain\n\
         RUN rm -r /gone && ln -s kept /link\nWORKDIR /gone/fresh\nWORKDIR /link/in\nWORKDIR /kept\nWORKDIR /new/er\nWORKDIR most\n\
         RUN pwd > /at && find /new /gone /kept /link | sort > /found && stat -c '%a %u %g %n' /new /gone /kept /kept/in > /attributes\n",
    );
    assert_eq!(image.text("at"), "/new/er/most\n");
    let wanted =
        "/gone /gone/fresh /kept /kept/file /kept/in /link /new /new/er /new/er/most".split(' ');
    assert_eq!(image.text("found").lines().collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
    assert_eq!(
        image.text("attributes"),
        "755 0 0 /new\n755 0 0 /gone\n700 7 8 /kept\n755 0 0 /kept/in\n"
    );
    let context = Context::dockerfile("FROM @busybox\nRUN touch /plain\nWORKDIR /plain/in\n");
    let failed = builder.build(&context).run().failure();
    assert!(failed.contains("/plain"), "{failed}");
}

#[test]
fn here_documents_become_files() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM scratch\nENV V=value\nCOPY <<one <<\"two\" /dir/\nexpanded $V\none\nliteral $V\ntwo\nCOPY --chmod=755 <<EOF /script\n#!/bin/sh\nEOF\n",
    );
    assert_eq!(image.text("dir/one"), "expanded value\n");
    assert_eq!(image.text("dir/two"), "literal $V\n");
    assert_eq!(image.files()["script"].mode, 0o755);
}

#[test]
fn copying_into_a_linked_directory_follows_it_inside_the_image() {
    let builder = Builder::plain();
    let context = Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox\nRUN mkdir /real && ln -s /real /alias && ln -s ../../../../etc /escape\nCOPY f /alias/f\nCOPY f /escape/planted\n",
        ),
        ("f", "f"),
    ]);
    let files = builder.build(&context).image().files();
    assert_eq!(files["real/f"].text(), "f");
    assert_eq!(files["alias"].kind, 'l');
    assert_eq!(files["etc/planted"].text(), "f");
    assert!(!std::path::Path::new("/etc/planted").exists());
}

#[test]
fn images_are_sources_too() {
    let builder = Builder::plain();
    let registry = cofferdam_tests::images::busybox();
    let image = builder.image(&format!("FROM scratch\nCOPY --from={registry} /etc/passwd /p\n"));
    assert!(image.text("p").starts_with("root:"));
    assert_eq!(image.depth(), 1);
}

#[test]
fn links_between_what_a_pattern_finds_lead_nowhere_else() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox AS s\nRUN mkdir -p /src/a /src/b && echo first > /src/a/x && echo second > /src/b/x && ln /src/a/x /src/b/y\n\
         FROM scratch\nCOPY --from=s /src/* /dst/\n",
    );
    let image = builder.build(&context).image();
    assert_eq!((image.text("dst/x"), image.text("dst/y")), ("second\n".into(), "first\n".into()));
}
