//! Registries that want a password.

use cofferdam_tests::registry::{PASSWORD, USER};
use cofferdam_tests::{Builder, Context, Registry, images};

fn private() -> Registry {
    let registry = Registry::with_password();
    let (layer, config) = images::parts("busybox");
    registry.push_image("base", "1", &[layer], &config);
    registry
}

#[test]
fn the_clients_credentials_open_pull_and_push() {
    let (builder, registry) = (Builder::plain(), private());
    let context = Context::dockerfile(&format!(
        "FROM {}\nRUN echo private > /p\n",
        registry.reference("base:1")
    ));
    let build = builder.build(&context).login(registry.address(), USER, PASSWORD);
    let outcome = build.args("--push -t").arg(registry.reference("app:1")).run().success();
    assert_eq!(registry.pull("app", "1").text("p"), "private\n");
    assert!(!outcome.stderr.contains(PASSWORD));
    assert!(!builder.log().contains(PASSWORD));
}

#[test]
fn without_credentials_the_error_says_so_and_what_was_cached_stays_closed() {
    let (builder, registry) = (Builder::plain(), private());
    let context = Context::dockerfile(&format!(
        "FROM {}\nRUN echo private > /p\n",
        registry.reference("base:1")
    ));
    let _ = builder.build(&context).login(registry.address(), USER, PASSWORD).run().success();
    for (what, build) in [
        ("none", builder.build(&context)),
        ("wrong", builder.build(&context).login(registry.address(), USER, "wrong-password")),
    ] {
        let error = build.run().failure();
        assert!(
            error.contains("401")
                || error.to_lowercase().contains("unauthorized")
                || error.contains("authorization"),
            "{what}: {error}"
        );
        assert!(error.contains("Dockerfile:1"), "{what}: {error}");
        assert!(!error.contains("wrong-password"), "{error}");
    }
    let scratch = Context::dockerfile("FROM scratch\nENV A=1\n");
    let error =
        builder.build(&scratch).args("--push -t").arg(registry.reference("app:1")).run().failure();
    assert!(
        error.contains("401")
            || error.to_lowercase().contains("unauthorized")
            || error.contains("authorization"),
        "{error}"
    );
    assert!(registry.manifest("app", "1").is_none());
}
