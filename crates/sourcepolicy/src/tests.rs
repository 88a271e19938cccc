#![allow(clippy::unwrap_used)]

use buffa::MessageField;
use cofferdam_wire::moby::buildkit::v1::sourcepolicy as wire;
use cofferdam_wire::pb;
use wire::{AttrMatch, MatchType, PolicyAction};

use super::{Policies, PolicyError};

fn rule(action: PolicyAction, kind: MatchType, identifier: &str) -> wire::Rule {
    wire::Rule {
        action: action.into(),
        selector: MessageField::some(wire::Selector {
            identifier: identifier.to_owned(),
            match_type: kind.into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn into(mut rule: wire::Rule, identifier: &str, attrs: &[(&str, &str)]) -> wire::Rule {
    rule.updates = MessageField::some(wire::Update {
        identifier: identifier.to_owned(),
        attrs: attrs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ..Default::default()
    });
    rule
}

fn when(mut rule: wire::Rule, key: &str, condition: AttrMatch, value: &str) -> wire::Rule {
    rule.selector.as_option_mut().unwrap().constraints.push(wire::AttrConstraint {
        key: key.to_owned(),
        value: value.to_owned(),
        condition: condition.into(),
        ..Default::default()
    });
    rule
}

fn source(identifier: &str) -> pb::SourceOp {
    pb::SourceOp { identifier: identifier.to_owned(), ..Default::default() }
}

/// What becomes of a source under rules, each list a policy.
fn apply(policies: &[&[wire::Rule]], of: &mut pb::SourceOp) -> Result<bool, PolicyError> {
    let policies: Vec<wire::Policy> = policies
        .iter()
        .map(|rules| wire::Policy { rules: rules.to_vec(), ..Default::default() })
        .collect();
    Policies::new(&policies)?.apply(of)
}

const BUSYBOX: &str = "docker-image://docker.io/library/busybox:latest";
const EVERYTHING: &str = "docker-image://*";

#[test]
fn the_last_word_on_a_source_counts_and_every_policy_has_one() {
    let allow = rule(PolicyAction::ALLOW, MatchType::WILDCARD, EVERYTHING);
    let deny = rule(PolicyAction::DENY, MatchType::EXACT, BUSYBOX);
    let ask = |policies: &[&[wire::Rule]]| apply(policies, &mut source(BUSYBOX));
    assert_eq!(ask(&[]), Ok(false));
    assert_eq!(ask(&[&[deny.clone(), allow.clone()]]), Ok(false));
    let denied = Err(PolicyError::Denied(BUSYBOX.to_owned()));
    assert_eq!(ask(&[&[allow.clone(), deny.clone()]]), denied);
    assert_eq!(ask(&[std::slice::from_ref(&deny), &[allow]]), denied);
    assert_eq!(
        apply(&[&[deny]], &mut source("docker-image://docker.io/library/alpine")),
        Ok(false)
    );
}

#[test]
fn a_source_is_converted_with_the_parts_of_its_name_and_judged_again() {
    let convert = rule(PolicyAction::CONVERT, MatchType::WILDCARD, "docker-image://docker.io/*:*");
    let convert =
        into(convert, "docker-image://mirror/${1}:$2-x", &[("image.resolvemode", "pull")]);
    let mut image = source(BUSYBOX);
    assert_eq!(apply(&[std::slice::from_ref(&convert)], &mut image), Ok(true));
    assert_eq!(image.identifier, "docker-image://mirror/library/busybox:latest-x");
    assert_eq!(image.attrs["image.resolvemode"], "pull");
    assert_eq!(apply(&[std::slice::from_ref(&convert)], &mut image), Ok(false), "it is done");
    let deny = rule(PolicyAction::DENY, MatchType::REGEX, "//mirror/.*-x$");
    assert!(matches!(
        apply(&[&[convert, deny]], &mut source(BUSYBOX)),
        Err(PolicyError::Denied(_))
    ));
    let expression = rule(PolicyAction::CONVERT, MatchType::REGEX, "docker.io/library/(busy)");
    let mut image = source(BUSYBOX);
    assert_eq!(apply(&[&[into(expression, "other/$1", &[])]], &mut image), Ok(true));
    assert_eq!(image.identifier, "docker-image://other/busybox:latest");
}

#[test]
fn attributes_alone_can_be_set_and_decide() {
    let file = "https://example.com/file";
    let pin = rule(PolicyAction::CONVERT, MatchType::EXACT, file);
    let pin = when(
        into(pin, "", &[("http.checksum", "sha256:1")]),
        "http.checksum",
        AttrMatch::EQUAL,
        "",
    );
    let mut plain = source(file);
    assert_eq!(apply(&[std::slice::from_ref(&pin)], &mut plain), Ok(true));
    assert_eq!(
        (plain.identifier.as_str(), plain.attrs["http.checksum"].as_str()),
        (file, "sha256:1")
    );
    let deny = |condition, value| {
        let deny = rule(PolicyAction::DENY, MatchType::WILDCARD, "https://*");
        apply(&[&[when(deny, "http.checksum", condition, value)]], &mut plain.clone()).is_err()
    };
    assert!(deny(AttrMatch::NOTEQUAL, "sha256:2") && !deny(AttrMatch::NOTEQUAL, "sha256:1"));
    assert!(deny(AttrMatch::MATCHES, "^sha256:") && !deny(AttrMatch::MATCHES, "^sha512:"));
}

#[test]
fn rules_without_end_or_sense_are_refused() {
    let back = |from, to| into(rule(PolicyAction::CONVERT, MatchType::EXACT, from), to, &[]);
    let circle = [back("https://a", "https://b"), back("https://b", "https://a")];
    assert_eq!(apply(&[&circle], &mut source("https://a")), Err(PolicyError::Circle));
    let grow = rule(PolicyAction::CONVERT, MatchType::WILDCARD, "https://*");
    let grow = into(grow, &format!("https://{}", "$1".repeat(50)), &[]);
    assert_eq!(apply(&[&[grow]], &mut source("https://aaaa")), Err(PolicyError::TooLong));
    let broken = |rule| apply(&[&[rule]], &mut source("https://a")).unwrap_err().to_string();
    assert!(broken(rule(PolicyAction::DENY, MatchType::REGEX, "(")).contains("invalid pattern"));
    assert!(
        broken(rule(PolicyAction::DENY, MatchType::REGEX, "(a{1000}){1000}")).contains("too large")
    );
    assert!(broken(rule(PolicyAction::DENY, MatchType::WILDCARD, "a**")).contains("wildcard"));
    assert!(broken(rule(PolicyAction::CONVERT, MatchType::EXACT, "a")).contains("destination"));
    assert!(broken(wire::Rule::default()).contains("selector"));
    let many = vec![rule(PolicyAction::ALLOW, MatchType::EXACT, "a"); super::MAX_RULES + 1];
    assert!(matches!(apply(&[&many], &mut source("a")), Err(PolicyError::TooManyRules(_))));
}

#[test]
fn rules_of_all_policies_are_counted_with_what_hangs_on_them() {
    let policy = |rules: Vec<wire::Rule>| wire::Policy { rules, ..Default::default() };
    let half = vec![rule(PolicyAction::ALLOW, MatchType::EXACT, "a"); super::MAX_RULES / 2];
    let first = Policies::new(&[policy(half.clone())]).unwrap();
    assert!(first.and(&[policy(half.clone())]).is_ok());
    let mut more = half;
    let last = more.pop().unwrap();
    more.push(when(last, "k", AttrMatch::EQUAL, "v"));
    let over = first.and(&[policy(more)]).unwrap_err();
    assert_eq!(over, PolicyError::TooManyRules(super::MAX_RULES + 1));

    let expression = rule(PolicyAction::DENY, MatchType::REGEX, "x");
    let both = when(expression.clone(), "k", AttrMatch::MATCHES, "v");
    let all = Policies::new(&[policy(vec![both; super::MAX_EXPRESSIONS / 2])]).unwrap();
    let over = all.and(&[policy(vec![expression])]).unwrap_err();
    assert_eq!(over, PolicyError::TooManyExpressions(super::MAX_EXPRESSIONS + 1));
}

#[test]
fn more_rules_come_after_those_that_were_there() {
    let deny = wire::Policy {
        rules: vec![rule(PolicyAction::DENY, MatchType::EXACT, BUSYBOX)],
        ..Default::default()
    };
    let none = Policies::default();
    let both = none.and(&[deny]).unwrap().and(&[wire::Policy::default()]).unwrap();
    assert!(none.is_empty() && !both.is_empty());
    assert!(both.apply(&mut source(BUSYBOX)).is_err());
}

#[test]
fn what_is_too_long_to_be_judged_is_refused() {
    let deny = [rule(PolicyAction::DENY, MatchType::EXACT, "https://other")];
    let long = format!("https://{}", "a".repeat(super::MAX_TEXT));
    assert_eq!(apply(&[], &mut source(&long)), Ok(false));
    assert_eq!(apply(&[&deny], &mut source(&long)), Err(PolicyError::TooLong));
    let matching =
        when(rule(PolicyAction::DENY, MatchType::EXACT, "x"), "k", AttrMatch::MATCHES, "v");
    let mut attributed = source("https://a");
    attributed.attrs.insert("k".to_owned(), long);
    assert_eq!(apply(&[&[matching]], &mut attributed), Err(PolicyError::TooLong));
}
