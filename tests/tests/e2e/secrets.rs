//! Secrets reach the step that mounts them and nothing else.

use std::io::Write;
use std::path::Path;

use cofferdam_tests::{Builder, Context, Registry};

const SECRET: &str = "c0ff3rd4m-planted-secret-4711";

#[test]
fn secrets_are_files_and_variables_of_one_step() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM @busybox\nRUN --mount=type=secret,id=s,target=/here,uid=1000,gid=50,mode=0440 stat -c '%u:%g %a' /here && wc -c < /here && mount | grep ' /here ' | cut -d' ' -f5\n\
         RUN --mount=type=secret,id=s,env=TOKEN echo \"length ${#TOKEN}\"\nRUN --mount=type=secret,id=e cat /run/secrets/e | wc -c\n\
         RUN --mount=type=secret,id=absent echo \"optional: $(ls /run/secrets 2>/dev/null | wc -l)\"\nRUN ls -A /here /run/secrets 2>/dev/null | wc -l; echo \"none: [$TOKEN]\"\n",
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().write_all(SECRET.as_bytes()).unwrap();
    let outcome = builder
        .build(&context)
        .arg("--secret")
        .arg(format!("id=s,src={}", file.path().display()))
        .args("--secret id=e,env=FROM_ENV")
        .env("FROM_ENV", "12345")
        .run()
        .success();
    assert_eq!(outcome.log("target=/here"), format!("1000:50 440\n{}\ntmpfs", SECRET.len()));
    assert_eq!(outcome.log("env=TOKEN"), format!("length {}", SECRET.len()));
    assert_eq!(outcome.log("id=e "), "5");
    assert_eq!(outcome.log("id=absent"), "optional: 0");
    assert!(outcome.log("RUN ls -A").ends_with("none: []"), "{}", outcome.log("RUN ls -A"));
}

#[test]
fn a_planted_secret_is_found_nowhere_afterwards() {
    let builder = Builder::plain();
    let registry = Registry::start();
    let context = Context::dockerfile(
        "FROM @busybox\nRUN --mount=type=secret,id=s,env=TOKEN --mount=type=secret,id=s [ -n \"$TOKEN\" ] && cat /run/secrets/s | sha256sum > /proof\nRUN cat /proof\n",
    );
    let output = format!("type=image,push=true,name={}", registry.reference("app:1"));
    let cache = registry.reference("cache:1");
    let metadata = tempfile::NamedTempFile::new().unwrap();
    let build = |dockerfile: &Context| {
        builder
            .build(dockerfile)
            .args("--secret id=s,env=PLANTED --cache-to")
            .arg(format!("type=registry,mode=max,ref={cache}"))
            .arg("-o")
            .arg(&output)
            .arg("--metadata-file")
            .arg(metadata.path())
            .env("PLANTED", SECRET)
            .run()
    };
    let outcome = build(&context).success();
    assert!(!outcome.stderr.contains(SECRET));
    let image = registry.pull("app", "1");
    assert!(image.text("proof").len() > 64, "control: the step had the secret");
    for bytes in
        image.layers.iter().map(cofferdam_tests::Blob::plain).chain(image.documents.clone())
    {
        assert!(!contains(&bytes, SECRET.as_bytes()), "in the image");
    }
    let failing = Context::dockerfile(
        "FROM @busybox\nRUN --mount=type=secret,id=s,env=TOKEN,required false\n",
    );
    let error = build(&failing).failure();
    assert!(!error.contains(SECRET), "{error}");
    assert!(!builder.log().contains(SECRET), "in the builder's messages");
    assert!(!contains(&std::fs::read(metadata.path()).unwrap(), SECRET.as_bytes()));
    assert_eq!(
        found_in(registry.storage()),
        Vec::<String>::new(),
        "in the registry: image and cache"
    );
    // Another value of the secret changes no key.
    let again = builder
        .build(&context)
        .args("--secret id=s,env=PLANTED")
        .env("PLANTED", "another")
        .run()
        .success();
    assert!(again.ran().is_empty(), "{:?}", again.ran());
    assert_eq!(found_in(&builder.root()), Vec::<String>::new(), "while the builder runs");
    let home = builder.stop();
    assert_eq!(found_in(&home.root()), Vec::<String>::new(), "records, layers and what was swept");
    // Control: the search finds what is there.
    let planted = tempfile::tempdir().unwrap();
    std::fs::write(planted.path().join("x"), format!("a{SECRET}b")).unwrap();
    assert_eq!(found_in(planted.path()).len(), 1);
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Files below `directory` that hold the secret, packed or not.
fn found_in(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                // A file may go while one looks.
                let Ok(bytes) = std::fs::read(entry.path()) else { continue };
                let packed = bytes.starts_with(&[0x1f, 0x8b]);
                let bytes = if packed {
                    cofferdam_tests::Blob { media_type: String::new(), bytes }.plain()
                } else {
                    bytes
                };
                if contains(&bytes, SECRET.as_bytes()) {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}
