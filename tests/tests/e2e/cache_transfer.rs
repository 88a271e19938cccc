//! Caches that travel: a fresh builder reuses what another one did.

use cofferdam_tests::bucket::{Bucket, KEY, SECRET};
use cofferdam_tests::{Builder, Context, Registry};

fn context() -> Context {
    Context::new(&[
        (
            "Dockerfile",
            "FROM @busybox AS made\nRUN head -c 100000 /dev/urandom > /random\nCOPY a /a\nRUN cat /a > /copy\nFROM scratch\nCOPY --from=made /random /copy /\n",
        ),
        ("a", "1"),
    ])
}

/// Exports with `to`, imports with `from` in a builder that knows nothing.
fn travels(to: &str, from: &str, all: bool) {
    let context = context();
    let first = Builder::plain();
    let made = first.build(&context).arg("--cache-to").arg(to).tar();
    drop(first);
    let second = Builder::plain();
    let (outcome, out) = second.build(&context).arg("--cache-from").arg(from).local();
    assert_eq!(
        std::fs::read(out.path().join("random")).unwrap(),
        made["random"].content,
        "{}",
        outcome.stderr
    );
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    // A change needs the stages behind the result as well.
    context.write("a", "2");
    let outcome = second.build(&context).arg("--cache-from").arg(from).run().success();
    let again = outcome.ran().iter().any(|name| name.contains("urandom"));
    assert_eq!(again, !all, "{:?}", outcome.ran());
}

#[test]
fn through_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    travels(
        &format!("type=local,mode=max,dest={}", path.display()),
        &format!("type=local,src={}", path.display()),
        true,
    );
}

#[test]
fn through_a_directory_with_the_results_layers_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache");
    travels(
        &format!("type=local,dest={}", path.display()),
        &format!("type=local,src={}", path.display()),
        false,
    );
}

#[test]
fn through_a_registry() {
    let registry = Registry::start();
    let name = registry.reference("cache:1");
    travels(
        &format!("type=registry,mode=max,ref={name}"),
        &format!("type=registry,ref={name}"),
        true,
    );
}

#[test]
fn through_a_registry_as_an_index() {
    let registry = Registry::start();
    let name = registry.reference("cache:index");
    travels(
        &format!("type=registry,mode=max,image-manifest=false,ref={name}"),
        &format!("type=registry,ref={name}"),
        true,
    );
}

#[test]
fn through_a_bucket() {
    let bucket = Bucket::start();
    travels(&format!("{},mode=max", bucket.cache("main")), &bucket.cache("main"), true);
    let names = bucket.names();
    assert!(names.contains(&"manifests/main".to_owned()), "{names:?}");
    assert!(names.iter().any(|name| name.starts_with("blobs/sha256:")), "{names:?}");
}

#[test]
fn what_opens_a_bucket_is_shown_nowhere() {
    let bucket = Bucket::start();
    let builder = Builder::plain();
    let attrs = bucket.cache("main").replace("bucket=caches", "bucket=nobodys");
    let (from, to) = (format!("{attrs},mode=max"), format!("{attrs},mode=max"));
    let outcome =
        builder.build(&context()).arg("--cache-from").arg(from).arg("--cache-to").arg(to).run();
    assert_ne!(outcome.code, Some(0), "control: there is no such bucket");
    let exported = "exporting cache to Amazon S3";
    assert!(outcome.stderr.contains(exported), "control: it got that far: {}", outcome.stderr);
    for text in [
        outcome.stderr.clone(),
        String::from_utf8_lossy(&outcome.stdout).into_owned(),
        builder.log(),
    ] {
        assert!(!text.contains(SECRET) && !text.contains(KEY), "{text}");
    }
}

#[test]
fn a_name_that_leads_nowhere_is_said_of_every_cache() {
    let builder = Builder::plain();
    let bucket = "type=s3,endpoint_url=http://absent.invalid:9000,bucket=b,region=r,access_key_id=i,secret_access_key=s,use_path_style=true,retry_max_attempts=1";
    for to in ["type=registry,ref=absent.invalid/cache:main", bucket] {
        let error = builder.build(&context()).arg("--cache-to").arg(to).run().failure();
        assert!(error.contains("dial tcp: lookup absent.invalid: "), "{to}: {error}");
    }
}

#[test]
fn inside_the_image_itself() {
    let registry = Registry::start();
    let name = registry.reference("app:1");
    let context = Context::dockerfile(
        "FROM @busybox\nRUN head -c 1000 /dev/urandom > /random\nRUN wc -c < /random > /size\n",
    );
    let first = Builder::plain();
    let _ =
        first.build(&context).args("--push --cache-to type=inline -t").arg(&name).run().success();
    drop(first);
    let second = Builder::plain();
    let (outcome, image) = second.build(&context).arg("--cache-from").arg(&name).image_with("");
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    assert_eq!(
        image.files()["random"].content,
        registry.pull("app", "1").files()["random"].content
    );
}

#[test]
fn a_missing_cache_stops_nothing_and_a_broken_one_is_never_believed() {
    let registry = Registry::start();
    let builder = Builder::plain();
    let context = context();
    let from = format!("type=registry,ref={}", registry.reference("nothing:1"));
    let _ = builder.build(&context).arg("--cache-from").arg(from).run().success();
    let (first, directory) = (Builder::plain(), tempfile::tempdir().unwrap());
    let path = directory.path().join("cache");
    let _ = first
        .build(&context)
        .arg("--cache-to")
        .arg(format!("type=local,mode=max,dest={}", path.display()))
        .run()
        .success();
    for entry in std::fs::read_dir(path.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        // Layers are spoilt; documents stay.
        if bytes.first() != Some(&b'{') {
            std::fs::write(&path, vec![0; bytes.len()]).unwrap();
        }
    }
    let fresh = Builder::plain();
    let from = format!("type=local,src={}", path.display());
    let import = || fresh.build(&context).arg("--cache-from").arg(&from);
    let error = import().args("--output type=tar,dest=-").run().failure();
    assert!(error.contains("digest") && error.contains("is not what the cache says"), "{error}");
    // Once that is known, nothing of it is believed.
    let (outcome, out) = import().local();
    assert!(outcome.stderr.contains("is left out"), "{}", outcome.stderr);
    assert_eq!(std::fs::read_to_string(out.path().join("copy")).unwrap(), "1");
    assert_eq!(std::fs::read(out.path().join("random")).unwrap().len(), 100_000);
}

#[test]
fn layers_that_a_cache_lost_are_made_again() {
    for truncated in [false, true] {
        let (first, directory) = (Builder::plain(), tempfile::tempdir().unwrap());
        let (path, context) = (directory.path().join("cache"), context());
        let to = format!("type=local,mode=max,dest={}", path.display());
        let _ = first.build(&context).arg("--cache-to").arg(to).run().success();
        drop(first);
        let config = cache_config(&path);
        for layer in config["layers"].as_array().unwrap() {
            let hex = layer["blob"].as_str().unwrap().trim_start_matches("sha256:");
            let blob = path.join("blobs/sha256").join(hex);
            if truncated {
                let length = blob.metadata().unwrap().len();
                let file = std::fs::File::options().write(true).open(&blob).unwrap();
                file.set_len(length / 2).unwrap();
            } else {
                std::fs::remove_file(&blob).unwrap();
            }
        }
        let second = Builder::plain();
        let from = format!("type=local,src={}", path.display());
        let (outcome, out) = second.build(&context).arg("--cache-from").arg(from).local();
        assert!(!outcome.ran().is_empty(), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("has lost layer"), "{}", outcome.stderr);
        assert_eq!(std::fs::read_to_string(out.path().join("copy")).unwrap(), "1");
    }
}

/// The JSON document of a cache's directory that is called so.
fn document(cache: &std::path::Path, digest: &serde_json::Value) -> serde_json::Value {
    let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
    serde_json::from_slice(&std::fs::read(cache.join("blobs/sha256").join(hex)).unwrap()).unwrap()
}

/// The config of a cache in a directory.
fn cache_config(cache: &std::path::Path) -> serde_json::Value {
    let index = std::fs::read(cache.join("index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let manifest = document(cache, &index["manifests"][0]["digest"]);
    document(cache, &manifest["config"]["digest"])
}

#[test]
fn a_layer_that_a_cache_lost_and_nobody_needs_is_left_out_of_the_next_cache() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, next) = (directory.path().join("cache"), directory.path().join("next"));
    let context = Context::dockerfile(
        "FROM @busybox AS made\nRUN head -c 1000 /dev/urandom > /random && touch /other\nFROM scratch\nCOPY --from=made /random /\n",
    );
    let first = Builder::plain();
    let to = format!("type=local,mode=max,dest={}", cache.display());
    let _ = first.build(&context).arg("--cache-to").arg(to).run().success();
    drop(first);
    let config = cache_config(&cache);
    let layers = config["layers"].as_array().unwrap();
    // The one that stands on another is what RUN made.
    let run = layers.iter().find(|layer| layer["parent"].as_i64() != Some(-1)).unwrap();
    let run = run["blob"].as_str().unwrap().trim_start_matches("sha256:");
    std::fs::remove_file(cache.join("blobs/sha256").join(run)).unwrap();
    let second = Builder::plain();
    let outcome = second
        .build(&context)
        .arg("--cache-from")
        .arg(format!("type=local,src={}", cache.display()))
        .arg("--cache-to")
        .arg(format!("type=local,mode=max,dest={}", next.display()))
        .run()
        .success();
    assert!(outcome.ran().is_empty(), "{:?}", outcome.ran());
    let config = cache_config(&next);
    let layers = config["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1, "what COPY made is there still: {config}");
}
