//! ARG and ENV: scopes, precedence, predefined arguments, expansion.

use cofferdam_tests::{Builder, Context};

#[test]
fn arguments_live_in_their_scope_and_the_caller_overrides_them() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "ARG GLOBAL=from-global\nARG UNSEEN=unseen\nFROM @busybox AS base\nARG GLOBAL\nARG LOCAL=local-default\nARG GIVEN=default\n\
         ARG EMPTY\nRUN echo \"$GLOBAL|$UNSEEN|$LOCAL|$GIVEN|$EMPTY|\" > /first\n\
         FROM @busybox\nCOPY --from=base /first /first\nRUN echo \"$GLOBAL|$LOCAL|$GIVEN|\" > /second\n",
    );
    let image = builder.build(&context).args("--build-arg GIVEN=given").image();
    assert_eq!(image.text("first"), "from-global||local-default|given||\n");
    assert_eq!(image.text("second"), "|||\n");
    assert!(
        !image.env().iter().any(|variable| variable.starts_with("GIVEN")),
        "arguments do not stay: {:?}",
        image.env()
    );
    // A value of the caller's environment, where none is written.
    let image = builder.build(&context).args("--build-arg GIVEN").env("GIVEN", "inherited").image();
    assert_eq!(image.text("first"), "from-global||local-default|inherited||\n");
}

#[test]
fn variables_stay_in_the_image_and_win_over_arguments() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nARG NAME=argument\nENV NAME=variable OTHER=\"two words\" THIRD=a\\ b\nENV LEGACY style value\n\
         ENV COMBINED=${NAME}-$OTHER\nRUN echo \"$NAME|$OTHER|$THIRD|$LEGACY|$COMBINED\" > /out\n",
    );
    assert_eq!(image.text("out"), "variable|two words|a b|style value|variable-two words\n");
    for wanted in [
        "NAME=variable",
        "OTHER=two words",
        "THIRD=a b",
        "LEGACY=style value",
        "COMBINED=variable-two words",
    ] {
        assert!(image.env().contains(&wanted), "{wanted} is not in {:?}", image.env());
    }
    assert_eq!(image.env()[0], cofferdam_tests::images::PATH, "the base image's own come first");
}

#[test]
fn every_form_of_expansion_works_where_instructions_expand() {
    let builder = Builder::plain();
    let image = builder.image(
        "FROM @busybox\nENV set=value.tar.gz empty= path=/a/b/c\n\
         LABEL minus=${unset:-fallback} minus_set=${set:-fallback} minus_empty=${empty-kept} plus=${set:+there} plus_unset=${unset:+there} \
         short=${set%.*} shortest=${set%%.*} front=${path#*/} longest=${path##*/} replaced=${path/\\//_} all=${path//\\//_} \
         escaped=\\$set single='$set' double=\"$set\"\n\
         WORKDIR /${set}\nUSER ${unset:-1000}:${unset:-50}\nEXPOSE ${unset:-80}\nSTOPSIGNAL ${unset:-SIGINT}\nVOLUME /${set}/v\n",
    );
    let label = |name: &str| image.setting("Labels")[name].as_str().unwrap_or("(none)").to_owned();
    for (name, wanted) in [
        ("minus", "fallback"),
        ("minus_set", "value.tar.gz"),
        ("minus_empty", ""),
        ("plus", "there"),
        ("plus_unset", ""),
        ("short", "value.tar"),
        ("shortest", "value"),
        ("front", "a/b/c"),
        ("longest", "c"),
        ("replaced", "_a/b/c"),
        ("all", "_a_b_c"),
        ("escaped", "$set"),
        ("single", "$set"),
        ("double", "value.tar.gz"),
    ] {
        assert_eq!(label(name), wanted, "{name}");
    }
    assert_eq!(image.setting("WorkingDir"), "/value.tar.gz");
    assert_eq!(image.setting("User"), "1000:50");
    assert!(image.setting("ExposedPorts")["80/tcp"].is_object());
    assert_eq!(image.setting("StopSignal"), "SIGINT");
    assert!(image.setting("Volumes")["/value.tar.gz/v"].is_object());
}

#[test]
fn predefined_arguments_are_there_and_proxies_stay_out_of_the_image() {
    let builder = Builder::plain();
    let context = Context::dockerfile(
        "FROM --platform=$BUILDPLATFORM @busybox\nARG TARGETPLATFORM\nARG TARGETOS\nARG TARGETARCH\nARG BUILDPLATFORM\n\
         RUN echo \"$TARGETPLATFORM $TARGETOS $TARGETARCH $BUILDPLATFORM\" > /out\nRUN echo \"proxy $HTTP_PROXY $no_proxy\"\n",
    );
    let build = builder
        .build(&context)
        .args("--build-arg HTTP_PROXY=http://proxy.invalid:1 --build-arg no_proxy=nobody");
    let (outcome, image) = build.image_with("");
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    assert_eq!(image.text("out"), format!("linux/{arch} linux {arch} linux/{arch}\n"));
    assert_eq!(outcome.log("RUN echo \"proxy"), "proxy http://proxy.invalid:1 nobody");
    assert!(!image.config.to_string().contains("proxy.invalid"), "{}", image.config);
    // Another proxy changes no key.
    let again = builder
        .build(&context)
        .args("--build-arg HTTP_PROXY=http://other.invalid:1")
        .run()
        .success();
    assert!(again.ran().is_empty(), "{:?}", again.ran());
}
