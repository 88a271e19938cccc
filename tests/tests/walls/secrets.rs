//! Secrets: planted in a build, then searched for in everything that is left of it.
//!
//! Builds are of every kind: ended well, failed, cached, of repositories, by buildpacks in both flows, rebased, through a server. What is
//! searched: layers, config and history, metadata, exported caches, progress and errors, the builder's messages, its whole directory
//! while it runs and afterwards, the server's data and messages. Each row's control is a build that gives the secret away on purpose.

mod builds;
mod hunt;
mod served;

use std::sync::OnceLock;

use cofferdam_tests::{Builder, Context};

use crate::attack::{Attack, BUILDER, Control, Level, ONCE, Way};
use crate::stage::{Stage, context, options};

pub(crate) use hunt::{Hunt, Secret};

const fn row(
    name: &'static str,
    what: &'static str,
    levels: &'static [Level],
    attempt: fn(&Stage) -> String,
) -> Attack {
    Attack { name, what, class: "secrets", levels, way: Way::Own { attempt, control: given_away } }
}

pub(crate) const ATTACKS: &[Attack] = &[
    row(
        "secret-mounts",
        "secrets as files, variables and agents: built, cached, exported, failed",
        BUILDER,
        builds::mounted,
    ),
    row(
        "secret-registry",
        "a password of a registry: pull, push, caches, wrong answers",
        ONCE,
        builds::registry,
    ),
    row(
        "secret-git",
        "a token of a git host, in a secret and in the URL: context, ADD, submodules, errors",
        ONCE,
        builds::git,
    ),
    row("secret-url", "a password in the URL of a download", ONCE, builds::url),
    row(
        "secret-buildpacks",
        "a password of a registry in builds by buildpacks, both flows, and in a rebase",
        ONCE,
        builds::buildpacks,
    ),
    Attack {
        name: "secret-onbuild",
        what: "a base image whose ONBUILD mounts the secrets and agents of whoever builds on it",
        class: "secrets",
        levels: ONCE,
        way: Way::Own { attempt: triggered, control: asked },
    },
    row(
        "secret-server",
        "secrets in builds through a server: depot build, bake, failing",
        ONCE,
        served::through_a_server,
    ),
];

/// The same for every row, and tried once.
fn given_away(stage: &Stage) -> Control {
    static GIVEN: OnceLock<Control> = OnceLock::new();
    GIVEN.get_or_init(|| give_away(stage)).clone()
}

/// The search finds what a build gives away, in each of the places.
fn give_away(stage: &Stage) -> Control {
    let builder = Builder::start(&options(stage.level));
    let (secret, mut hunt) = (Secret::new("given"), Hunt::default());
    hunt.wanted(&secret);
    let context = context(
        &[],
        "RUN --mount=type=secret,id=s cp /run/secrets/s /kept; echo \"said $(cat /kept)\"; base64 /kept > /encoded",
    );
    let out = tempfile::tempdir().unwrap();
    let outcome = builder
        .build(&context)
        .args("--secret id=s,env=GIVEN --output")
        .arg(format!("type=oci,dest={}/image.tar", out.path().display()))
        .arg("--cache-to")
        .arg(format!("type=local,mode=max,dest={}/cache", out.path().display()))
        .env("GIVEN", secret.text())
        .run()
        .success();
    for (place, found) in [
        ("progress", hunt.text(&outcome.stderr)),
        ("image", hunt.tree(&out.path().join("image.tar"))),
        ("cache", hunt.tree(&out.path().join("cache"))),
        ("store", hunt.tree(&builder.stop().root())),
    ] {
        assert!(!found.is_empty(), "the search does not see the {place}");
    }
    Control::Shown("given away on purpose it is found in image, cache, store and log".to_owned())
}

/// What a thief would have run.
const STEAL: &str = "RUN --mount=type=secret,id=s cp /run/secrets/s /stolen";

fn triggered(stage: &Stage) -> String {
    let from = crate::naive::image("onbuild", &[], |config| {
        config["config"]["OnBuild"] = serde_json::json!([STEAL]);
    });
    let secret = Secret::new("onbuild");
    let context = Context::dockerfile(&format!("FROM {from}\nRUN cat /stolen\n"));
    let build = stage.builder.build(&context).args("--secret id=s,env=S").env("S", secret.text());
    let outcome = build.run();
    assert!(!outcome.stderr.contains(secret.text()), "{}", outcome.stderr);
    assert_ne!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("ONBUILD of a base image"), "{}", outcome.stderr);
    "refused".to_owned()
}

fn asked(stage: &Stage) -> Control {
    let secret = Secret::new("asked");
    let context = Context::dockerfile(&format!("FROM @busybox\n{STEAL}\nRUN cat /stolen\n"));
    let outcome = stage
        .builder
        .build(&context)
        .args("--secret id=s,env=S")
        .env("S", secret.text())
        .run()
        .success();
    assert!(outcome.stderr.contains(secret.text()));
    Control::Shown("an instruction of one's own gets the secret".to_owned())
}
