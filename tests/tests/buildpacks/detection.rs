//! Which buildpacks take part: groups, optional ones, plans, and the codes that say that none does.

use cofferdam_tests::buildpacks::{FLOWS, Workshop};
use cofferdam_tests::{Context, Outcome};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

const PROVIDES_X: &str = "[[provides]]\nname = \"x\"";
const REQUIRES_X: &str = "[[requires]]\nname = \"x\"";
const PASS: &str = "exit 0";
const FAIL: &str = "exit 100";

/// A program to detect that writes a plan.
fn plan(toml: &str) -> String {
    format!("cat > \"$CNB_BUILD_PLAN_PATH\" <<'TOML'\n{toml}\nTOML")
}

/// Builds with buildpacks `a`, `b`, … that detect so, in these groups; in both flows.
fn outcomes(detects: &[&str], groups: &[&str]) -> Vec<Outcome> {
    let workshop = Workshop::new();
    for (name, detect) in NAMES.iter().zip(detects) {
        workshop.buildpack(
            name,
            detect,
            &format!("echo 'plan of {name}:'; cat \"$CNB_BP_PLAN_PATH\""),
        );
    }
    let builder = workshop.image_with_order("builder", &NAMES[..detects.len()], groups);
    let app = Context::new(&[("file", "")]);
    let build = |flow| {
        let outcome = workshop.build(&app, &builder, flow).run();
        let pushed = workshop.has(&format!("app-{}", flow.name()));
        assert_eq!(pushed, outcome.code == Some(0), "a failed build pushes nothing");
        outcome
    };
    FLOWS.into_iter().map(build).collect()
}

/// Names of those that built.
fn built(outcome: &Outcome) -> String {
    let ran = |name: &&&str| outcome.mentions(&format!("[build] test/{name}@1.0.0"));
    NAMES.iter().filter(ran).copied().collect::<Vec<_>>().join("")
}

fn passes(detects: &[&str], groups: &[&str], expected: &str) {
    for outcome in outcomes(detects, groups) {
        let outcome = outcome.success();
        assert_eq!(built(&outcome), expected, "{}", outcome.stderr);
    }
}

fn fails(detects: &[&str], groups: &[&str], code: i32) {
    for outcome in outcomes(detects, groups) {
        assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
        assert_eq!(built(&outcome), "", "{}", outcome.stderr);
    }
}

#[test]
fn optional_buildpacks_may_fail_and_others_end_their_group() {
    passes(&[FAIL, PASS], &[r#""test/a"? "test/b""#], "b");
    passes(&[FAIL, PASS, PASS], &[r#""test/a" "test/b""#, r#""test/c""#], "c");
    passes(&["exit 1", PASS], &[r#""test/a"? "test/b""#], "b");
}

#[test]
fn the_first_group_that_passes_builds() {
    passes(&[PASS, PASS], &[r#""test/b""#, r#""test/a""#], "b");
}

#[test]
fn no_group_is_twenty_and_an_error_on_the_way_twenty_one() {
    fails(&[FAIL, FAIL], &[r#""test/a""#, r#""test/b""#], 20);
    fails(&["exit 1", FAIL], &[r#""test/a""#, r#""test/b""#], 21);
    fails(&["kill -9 $$"], &[r#""test/a""#], 21);
}

#[test]
fn a_plan_wants_its_requires_met_and_its_provides_used() {
    let (provides, requires) = (plan(PROVIDES_X), plan(REQUIRES_X));
    let group = &[r#""test/a" "test/b""#];
    for outcome in outcomes(&[&provides, &requires], group) {
        let outcome = outcome.success();
        assert_eq!(built(&outcome), "ab");
        assert!(outcome.log("[build] test/a@1.0.0").contains("name = \"x\""), "{}", outcome.stderr);
        assert!(
            !outcome.log("[build] test/b@1.0.0").contains("name = \"x\""),
            "{}",
            outcome.stderr
        );
    }
    fails(&[&requires, &provides], group, 20);
    fails(&[&provides, FAIL], &[r#""test/a" "test/b"?"#], 20);
    passes(&[&provides, PASS], &[r#""test/a"? "test/b""#], "b");
}

#[test]
fn alternatives_of_a_plan_are_tried_in_turn() {
    let either = plan(&format!("{PROVIDES_X}\n[[or]]"));
    passes(&[&either, FAIL], &[r#""test/a" "test/b"?"#], "a");
    let either = plan("[[requires]]\nname = \"y\"\n[[or]]\n[[or.requires]]\nname = \"x\"");
    passes(&[&plan(PROVIDES_X), &either], &[r#""test/a" "test/b""#], "ab");
}

#[test]
fn what_a_buildpack_says_of_a_requirement_reaches_who_provides_it() {
    let requires = plan("[[requires]]\nname = \"x\"\n[requires.metadata]\nversion = \"9.9\"");
    for outcome in outcomes(&[&plan(PROVIDES_X), &requires], &[r#""test/a" "test/b""#]) {
        let said = outcome.success().log("[build] test/a@1.0.0");
        assert!(said.contains("version = \"9.9\""), "{said}");
    }
}

#[test]
fn a_buildpack_that_fails_to_build_is_fifty_one() {
    let workshop = Workshop::new();
    workshop.buildpack("bad", PASS, "echo before the end; exit 7");
    workshop.buildpack("after", PASS, "echo never");
    let builder = workshop.image("builder", &["bad", "after"]);
    for flow in FLOWS {
        let outcome = workshop.build(&Context::new(&[]), &builder, flow).run();
        assert_eq!(outcome.code, Some(51), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("before the end"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("test/bad@1.0.0"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("exit code 7"), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("never"), "{}", outcome.stderr);
        assert!(!workshop.has(&format!("app-{}", flow.name())));
    }
}

#[test]
fn detection_leaves_the_app_alone() {
    let workshop = Workshop::new();
    workshop.buildpack("writer", "echo changed > file; echo more > new", "cat file; ls");
    let builder = workshop.image("builder", &["writer"]);
    for flow in FLOWS {
        let app = Context::new(&[("file", "original\n")]);
        let outcome = workshop.build(&app, &builder, flow).run().success();
        assert_eq!(outcome.log("[build] test/writer@1.0.0"), "original\nfile");
    }
}

#[test]
fn a_run_image_that_is_not_there_is_an_error_of_analysis() {
    let workshop = Workshop::new();
    workshop.buildpack("a", PASS, PASS);
    let builder = workshop.image("builder", &["a"]);
    let (missing, app) = (workshop.reference("no-such-run-image"), Context::new(&[]));
    for flow in FLOWS {
        let build = workshop.build(&app, &builder, flow);
        let outcome = build.arg("--run-image").arg(&missing).run();
        assert_eq!(outcome.code, Some(32), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(&missing), "{}", outcome.stderr);
        assert!(!outcome.mentions(&flow.detect("test/a")), "nothing ran: {}", outcome.stderr);
    }
}
