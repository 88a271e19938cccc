#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cofferdam_cnb::{Group, GroupElement};
use futures::executor::block_on;

use super::*;

/// Runs what a test says, and counts.
#[derive(Default)]
struct Script {
    attempts: BTreeMap<String, (i32, &'static str)>,
    ran: Mutex<Vec<String>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Detector for Script {
    type Error = std::io::Error;

    async fn detect(&self, module: &Arc<Descriptor>) -> Result<Attempt, Self::Error> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let mut first = true;
        futures::future::poll_fn(|context| {
            context.waker().wake_by_ref();
            if std::mem::take(&mut first) {
                std::task::Poll::Pending
            } else {
                std::task::Poll::Ready(())
            }
        })
        .await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        self.ran.lock().unwrap().push(module.module().to_string());
        let (code, plan) = self.attempts.get(module.info.id.as_str()).copied().unwrap_or((0, ""));
        if code == i32::MIN {
            return Err(std::io::Error::other("no sandbox"));
        }
        Ok(Attempt { code, plan: plan.as_bytes().to_vec() })
    }
}

fn describe(kind: Kind, id: &str, version: &str, rest: &str) -> Arc<Descriptor> {
    let text = format!("api = \"0.12\"\n[{kind}]\nid = \"{id}\"\nversion = \"{version}\"\n{rest}");
    Arc::new(Descriptor::parse(kind, "x.toml", text.as_bytes()).unwrap())
}

fn bp(id: &str) -> Arc<Descriptor> {
    describe(Kind::Buildpack, id, "1", "")
}

/// `a` is required, `a?` optional, `a@2` of that version.
fn order(groups: &[&[&str]]) -> Order {
    let element = |text: &&str| {
        let (name, optional) = text.strip_suffix('?').map_or((*text, false), |name| (name, true));
        let (id, version) = name.split_once('@').unwrap_or((name, ""));
        GroupElement { id: id.into(), version: version.into(), optional, exec_env: Vec::new() }
    };
    groups.iter().map(|group| Group { group: group.iter().map(element).collect() }).collect()
}

fn request(modules: Vec<Arc<Descriptor>>, groups: &[&[&str]]) -> DetectRequest {
    DetectRequest {
        order: order(groups),
        order_extensions: Vec::new(),
        system: SystemOrder::default(),
        modules: Modules::new(modules),
        target: ImageTarget { os: "linux".into(), arch: "amd64".into(), ..ImageTarget::default() },
        exec_env: "production".into(),
        platform_api: ApiVersion::minor(15),
    }
}

fn script(attempts: &[(&str, i32, &'static str)]) -> Script {
    let attempts = attempts.iter().map(|(id, code, plan)| ((*id).to_owned(), (*code, *plan)));
    Script { attempts: attempts.collect(), ..Script::default() }
}

/// Ids of the group that passes, or the exit code.
fn outcome(request: &DetectRequest, script: &Script) -> Result<Vec<String>, i32> {
    let detected = block_on(detect(request, script)).map_err(|error| error.exit_code())?;
    let modules = detected.extensions.iter().chain(&detected.buildpacks);
    Ok(modules.map(|module| module.info.id.to_string()).collect())
}

/// The same for modules `a` to `d`, and `ext`.
fn case(groups: &[&[&str]], attempts: &[(&str, i32, &'static str)]) -> Result<Vec<String>, i32> {
    let modules = ["a", "b", "c", "d"].map(bp).to_vec();
    outcome(&request(modules, groups), &script(attempts))
}

fn ids(list: &[&str]) -> Result<Vec<String>, i32> {
    Ok(list.iter().map(|id| (*id).to_owned()).collect())
}

const PROVIDES: &str = "[[provides]]\nname = \"x\"\n";
const REQUIRES: &str = "[[requires]]\nname = \"x\"\n";
const BOTH: &str = "[[provides]]\nname = \"x\"\n[[requires]]\nname = \"x\"\n";

#[test]
fn group_results() {
    assert_eq!(case(&[&["a"]], &[("a", 0, "")]), ids(&["a"]), "required, 0");
    assert_eq!(case(&[&["a?"]], &[("a", 0, "")]), ids(&["a"]), "optional, 0");
    assert_eq!(case(&[&["a", "b"]], &[("a", 100, "")]), Err(20), "required, 100");
    assert_eq!(case(&[&["a?", "b"]], &[("a", 100, "")]), ids(&["b"]), "optional, 100");
    assert_eq!(case(&[&["a", "b"]], &[("a", 1, "")]), Err(21), "required, other");
    assert_eq!(case(&[&["a?", "b"]], &[("a", 7, "")]), ids(&["b"]), "optional, other");
    assert_eq!(case(&[&["a?"]], &[("a", 7, "")]), Err(21), "optional, other, nobody left");
    assert_eq!(case(&[&["a", "b"]], &[("a", 0, "nonsense")]), Err(21), "required, bad plan");
    assert_eq!(case(&[&["a?", "b"]], &[("a", 0, "nonsense")]), ids(&["b"]), "optional, bad plan");
    assert_eq!(case(&[&["a?", "b?"]], &[("a", 100, ""), ("b", 100, "")]), Err(20), "nobody");
    assert_eq!(case(&[], &[]), Err(20), "no group at all");
}

/// Name, group, attempts, who passes.
type Row =
    (&'static str, &'static [&'static str], [(&'static str, i32, &'static str); 2], Outcomes);
type Outcomes = Result<Vec<String>, i32>;

#[test]
fn plans_are_resolved() {
    let empty_or = "[[provides]]\nname = \"x\"\n[[or]]\n";
    let needs_first = "[[requires]]\nname = \"y\"\n[[or]]\n";
    let two = |a: (i32, &'static str), b: (i32, &'static str)| [("a", a.0, a.1), ("b", b.0, b.1)];
    let rows: [Row; 9] = [
        ("provided and required", &["a", "b"], two((0, PROVIDES), (0, REQUIRES)), ids(&["a", "b"])),
        ("wrong order", &["a", "b"], two((0, REQUIRES), (0, PROVIDES)), Err(20)),
        ("self-satisfied", &["a"], two((0, BOTH), (0, "")), ids(&["a"])),
        ("unused, optional", &["a?", "b"], two((0, PROVIDES), (0, "")), ids(&["b"])),
        ("unused, required", &["a", "b?"], two((0, PROVIDES), (100, "")), Err(20)),
        ("second alternative", &["a", "b?"], two((0, empty_or), (100, "")), ids(&["a"])),
        ("droppable only last", &["a?", "b"], two((0, needs_first), (0, "")), ids(&["a", "b"])),
        ("error tolerated", &["a?", "b"], two((1, ""), (0, "")), ids(&["b"])),
        ("unmet, optional", &["a", "b?"], two((0, ""), (0, REQUIRES)), ids(&["a"])),
    ];
    for (name, group, attempts, expected) in rows {
        assert_eq!(case(&[group], &attempts), expected, "{name}");
    }
    let next_fails = [("a", 1, ""), ("b", 100, "")];
    assert_eq!(case(&[&["a"], &["b"]], &next_fails), Err(21), "error, then all fail");
}

#[test]
fn removing_one_starts_the_trial_again() {
    // c leaves, so b's offer is unused and b leaves, so a's offer is unused and a leaves.
    let chain = [
        ("a", 0, "[[provides]]\nname = \"x\"\n"),
        ("b", 0, "[[requires]]\nname = \"x\"\n[[provides]]\nname = \"y\"\n"),
        ("c", 0, "[[requires]]\nname = \"y\"\n[[requires]]\nname = \"missing\"\n"),
    ];
    assert_eq!(case(&[&["a?", "b?", "c?", "d"]], &chain), ids(&["d"]));
    assert_eq!(case(&[&["a", "b?", "c?", "d"]], &chain), Err(20));
}

#[test]
fn plan_has_names_as_first_seen_with_all_providers_and_needs() {
    let modules = ["a", "b", "c"].map(bp).to_vec();
    let plans = script(&[
        ("a", 0, "[[provides]]\nname = \"z\"\n[[provides]]\nname = \"x\"\n"),
        (
            "b",
            0,
            "[[provides]]\nname = \"z\"\n[[requires]]\nname = \"z\"\n[requires.metadata]\nn = 1\n",
        ),
        ("c", 0, "[[requires]]\nname = \"x\"\n[[requires]]\nname = \"z\"\n"),
    ]);
    let detected = block_on(detect(&request(modules, &[&["a", "b", "c"]]), &plans)).unwrap();
    let names: Vec<&str> = detected.plan.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["z", "x"]);
    let providers: Vec<String> =
        detected.plan[0].providers.iter().map(ToString::to_string).collect();
    assert_eq!(providers, ["a@1", "b@1"]);
    assert_eq!(detected.plan[0].requires.len(), 2);
    assert_eq!(detected.plan[0].requires[0].metadata["n"].as_integer(), Some(1));
    let expected = [
        "group 1:",
        "pass: a@1",
        "pass: b@1",
        "pass: c@1",
        "a@1",
        "b@1",
        "c@1",
        "plan: z from a@1, b@1",
        "plan: x from a@1",
    ];
    assert_eq!(detected.report, expected);
}

#[test]
fn the_first_group_that_passes_wins_and_runs_are_kept() {
    let modules = ["a", "b", "c"].map(bp).to_vec();
    let runs = script(&[("a", 100, "")]);
    let request = request(modules, &[&["b", "a"], &["b", "c"], &["c"]]);
    assert_eq!(outcome(&request, &runs), ids(&["b", "c"]));
    assert_eq!(*runs.ran.lock().unwrap(), ["b@1", "a@1", "c@1"]);
    assert_eq!(runs.most.load(Ordering::SeqCst), 2, "a group's modules run at the same time");
}

#[test]
fn composites_stand_for_their_groups() {
    let composite = |id: &str, order: &str| describe(Kind::Buildpack, id, "1", order);
    let group = |ids: &[&str]| {
        let elements: String = ids
            .iter()
            .map(|id| format!("[[order.group]]\nid = \"{id}\"\nversion = \"1\"\n"))
            .collect();
        format!("[[order]]\n{elements}")
    };
    let lang = composite("lang", &format!("{}{}", group(&["a"]), group(&["b", "c"])));
    let outer = composite("outer", &group(&["lang", "d"]));
    let modules =
        || [vec![lang.clone(), outer.clone()], ["a", "b", "c", "d"].map(bp).to_vec()].concat();
    let run = |groups: &[&[&str]], fails: &[&str]| {
        let attempts: Vec<_> = fails.iter().map(|id| (*id, 100, "")).collect();
        outcome(&request(modules(), groups), &script(&attempts))
    };
    assert_eq!(run(&[&["lang", "d"]], &[]), ids(&["a", "d"]));
    assert_eq!(run(&[&["lang", "d"]], &["a"]), ids(&["b", "c", "d"]));
    assert_eq!(run(&[&["lang", "d"]], &["a", "b"]), Err(20));
    assert_eq!(run(&[&["lang?", "d"]], &["a", "b"]), ids(&["d"]), "optional composite");
    assert_eq!(run(&[&["outer"]], &["a"]), ids(&["b", "c", "d"]), "composite in a composite");
    assert_eq!(run(&[&["c", "lang"]], &["a"]), ids(&["c", "b"]), "the same id once");
}

#[test]
fn composites_that_contain_themselves_are_errors() {
    let of = |id: &str, inner: &str| {
        let order = format!("[[order]]\n[[order.group]]\nid = \"{inner}\"\nversion = \"1\"\n");
        describe(Kind::Buildpack, id, "1", &order)
    };
    let cycle = request(vec![of("p", "q"), of("q", "p")], &[&["p"]]);
    let error = block_on(detect(&cycle, &script(&[]))).unwrap_err();
    assert_eq!(
        (error.exit_code(), error.to_string().as_str()),
        (22, "order: p@1: contains itself")
    );
    let mut chain: Vec<_> =
        (0..100).map(|n| of(&format!("n{n}"), &format!("n{}", n + 1))).collect();
    chain.push(bp("n100"));
    let error = block_on(detect(&request(chain, &[&["n0"]]), &script(&[]))).unwrap_err();
    assert!(matches!(error, DetectError::Order { .. }), "{error}");
}

#[test]
fn orders_made_to_cost_are_refused() {
    // Every composite has two ways: 2^30 groups.
    let mut modules: Vec<_> = (0..30)
        .map(|n| {
            let group = |id: &str| {
                format!("[[order]]\n[[order.group]]\nid = \"{id}{n}\"\nversion = \"1\"\n")
            };
            describe(Kind::Buildpack, &format!("c{n}"), "1", &(group("x") + &group("y")))
        })
        .collect();
    modules.extend((0..30).flat_map(|n| [bp(&format!("x{n}")), bp(&format!("y{n}"))]));
    modules.push(bp("never"));
    let names: Vec<String> = (0..30).map(|n| format!("c{n}")).chain(["never".into()]).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = block_on(detect(&request(modules, &[&names]), &script(&[("never", 100, "")])));
    assert!(matches!(error.unwrap_err(), DetectError::Limit { .. }));
    let many = vec!["a"; 600];
    let error = block_on(detect(&request(vec![bp("a")], &[&many]), &script(&[]))).unwrap_err();
    assert!(matches!(error, DetectError::Limit { .. }));
}

#[test]
fn plans_made_to_cost_are_refused_or_cut() {
    // 2^60 trials without cutting; the last requires what nobody offers, so none works out.
    let plan = "[[provides]]\nname = \"p\"\n[[requires]]\nname = \"p\"\n[[or]]\n";
    let names: Vec<String> = (0..60).map(|n| format!("m{n}")).chain(["last".into()]).collect();
    let modules: Vec<_> = names.iter().map(|id| bp(id)).collect();
    let mut attempts: Vec<_> = names.iter().map(|id| (id.as_str(), 0, plan)).collect();
    attempts[60].2 = "[[requires]]\nname = \"missing\"\n";
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let error = block_on(detect(&request(modules.clone(), &[&names]), &script(&attempts)));
    assert!(matches!(error.unwrap_err(), DetectError::Limit { what: "names of plans", .. }));
    // Each first alternative needs what nobody offers: cut at once, the last one works.
    let plan = "[[requires]]\nname = \"nobody\"\n[[or]]\n";
    let attempts: Vec<_> = names.iter().map(|id| (*id, 0, plan)).collect();
    assert_eq!(outcome(&request(modules, &[&names]), &script(&attempts)).unwrap().len(), 61);
}

#[test]
fn system_buildpacks_go_around_groups() {
    let element = |id: &str, optional| GroupElement {
        id: id.into(),
        version: "1".into(),
        optional,
        exec_env: Vec::new(),
    };
    let mut request = request(["a", "b", "c", "d"].map(bp).to_vec(), &[&["b"], &["b", "a"]]);
    request.system.pre.buildpacks = vec![element("a", false)];
    request.system.post.buildpacks = vec![element("c", true), element("d", false)];
    assert_eq!(outcome(&request, &script(&[])), ids(&["a", "b", "c", "d"]));
    assert_eq!(outcome(&request, &script(&[("c", 100, "")])), ids(&["a", "b", "d"]), "optional");
    assert_eq!(outcome(&request, &script(&[("d", 100, "")])), Err(20), "required");
    request.order.remove(0);
    assert_eq!(outcome(&request, &script(&[])), ids(&["b", "a", "c", "d"]), "not twice");
    request.platform_api = ApiVersion::minor(14);
    assert_eq!(outcome(&request, &script(&[])), ids(&["b", "a"]), "before 0.15");
}

#[test]
fn extensions_come_first_and_are_optional() {
    let extension = |id: &str| describe(Kind::Extension, id, "1", "");
    let modules = vec![extension("ext"), extension("other"), bp("b")];
    let mut request = request(modules, &[&["b"]]);
    request.order_extensions = order(&[&["ext"], &["other"]]);
    let offers = ("ext", 0, PROVIDES);
    let run = |attempts: &[(&str, i32, &'static str)]| outcome(&request, &script(attempts));
    assert_eq!(run(&[offers, ("b", 0, REQUIRES)]), ids(&["ext", "b"]));
    let detected = block_on(detect(&request, &script(&[offers, ("b", 0, REQUIRES)]))).unwrap();
    assert_eq!(detected.plan[0].providers[0].kind, Kind::Extension);
    assert_eq!(run(&[("ext", 100, "")]), ids(&["b"]), "extensions are optional");
    assert_eq!(run(&[("ext", 0, REQUIRES), ("b", 0, "")]), ids(&["b"]), "cannot require");
    let second = [("ext", 0, ""), ("other", 0, PROVIDES), ("b", 0, REQUIRES)];
    assert_eq!(run(&second), ids(&["other", "b"]), "next group of extensions");
    assert_eq!(run(&[("b", 100, "")]), Err(20), "extensions alone do not build");
    assert_eq!(run(&[offers, ("other", 0, PROVIDES), ("b", 0, "")]), ids(&["b"]), "unused offer");
}

#[test]
fn targets_decide_before_anything_runs() {
    let arm = "[[targets]]\nos = \"linux\"\narch = \"arm64\"\n";
    let modules = vec![describe(Kind::Buildpack, "arm", "1", arm), bp("b")];
    let runs = script(&[]);
    assert_eq!(outcome(&request(modules.clone(), &[&["arm", "b"]]), &runs), Err(21));
    assert_eq!(outcome(&request(modules.clone(), &[&["arm?", "b"]]), &runs), ids(&["b"]));
    assert!(!runs.ran.lock().unwrap().contains(&"arm@1".to_owned()));
    let mut old = request(modules, &[&["arm", "b"]]);
    old.platform_api = ApiVersion::minor(11);
    assert_eq!(outcome(&old, &runs), ids(&["arm", "b"]), "no targets before 0.12");
}

#[test]
fn execution_environments_decide_who_takes_part() {
    let test = describe(Kind::Buildpack, "test", "1", "exec-env = [\"test\"]\n");
    let all = describe(Kind::Buildpack, "all", "1", "exec-env = [\"*\"]\n");
    let mut request = request(vec![test, all, bp("b")], &[&["test", "all", "b"]]);
    assert_eq!(outcome(&request, &script(&[])), ids(&["all", "b"]));
    request.order[0].group[2].exec_env = vec!["test".into()];
    assert_eq!(outcome(&request, &script(&[])), ids(&["all"]), "said by the order");
    request.exec_env = "test".into();
    assert_eq!(outcome(&request, &script(&[])), ids(&["test", "all", "b"]));
    request.exec_env = "production".into();
    request.platform_api = ApiVersion::minor(14);
    assert_eq!(outcome(&request, &script(&[])), ids(&["test", "all", "b"]), "before 0.15");
}

#[test]
fn unknown_and_ambiguous_modules_are_errors() {
    let two = vec![bp("a"), describe(Kind::Buildpack, "a", "2", ""), bp("b")];
    let error = |group: &[&str]| {
        block_on(detect(&request(two.clone(), &[group]), &script(&[]))).unwrap_err().to_string()
    };
    assert_eq!(error(&["a"]), "order: buildpack a needs a version: there are 1, 2");
    assert_eq!(error(&["a@3"]), "order: buildpack a@3 is not in the builder");
    assert_eq!(error(&["zzz"]), "order: buildpack zzz@(any) is not in the builder");
    assert_eq!(error(&["z\u{1b}[2J\n"]), "order: buildpack z [2J @(any) is not in the builder");
    assert_eq!(outcome(&request(two.clone(), &[&["a@2", "b"]]), &script(&[])), ids(&["a", "b"]));
}

#[test]
fn modules_that_share_a_directory_are_errors() {
    let request = request(vec![bp("x/a"), bp("x_a")], &[&["x/a", "x_a"]]);
    let error = block_on(detect(&request, &script(&[]))).unwrap_err();
    assert!(matches!(error, DetectError::Order { .. }), "{error}");
}

#[test]
fn a_program_that_cannot_run_ends_the_detection() {
    let request = request(vec![bp("a"), bp("b")], &[&["a?", "b"]]);
    let error = block_on(detect(&request, &script(&[("a", i32::MIN, "")]))).unwrap_err();
    assert_eq!(error.to_string(), "failed to run bin/detect of a@1");
    assert_eq!(error.exit_code(), 22);
    assert!(error.report().is_empty());
}

#[test]
fn reports_are_short_and_plain() {
    let report = |plan: String| {
        let plan: &'static str = Box::leak(plan.into_boxed_str());
        let request = request(vec![bp("a")], &[&["a"]]);
        let error = block_on(detect(&request, &script(&[("a", 0, plan)]))).unwrap_err();
        let report = error.report().to_vec();
        assert!(report.iter().all(|line| line.len() <= 400 && !line.contains(char::is_control)));
        report
    };
    let long = report(format!("[[requires]]\nname = \"{}\"\n", "x".repeat(5000)));
    assert!(long.iter().any(|line| line.starts_with("fail: a@1 requires xxx")), "{long:?}");
    let control = report("[[requires]]\nname = \"\\u001b[2J\"\n".to_owned());
    assert!(control.iter().any(|line| line.starts_with("err:  a@1 (plan: ")), "{control:?}");
}

#[test]
fn detection_can_move_between_threads() {
    fn moves<T: Send>(_: T) {}
    let (request, script) = (request(vec![bp("a")], &[&["a"]]), script(&[]));
    moves(detect(&request, &script));
}
