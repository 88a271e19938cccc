//! The walls, attacked: every known class of escape is tried at each level of isolation it applies to, and must fail.
//!
//! Each row has a control that shows that the attack works where the wall is not, or says why nothing here can show it. A level that
//! this machine cannot give fails the suite, unless `COFFERDAM_WALLS_WITHOUT` names it (`gvisor,vm`). Words on the command line
//! choose rows by parts of their names. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod archives;
mod attack;
mod cage;
mod document;
mod graphs;
mod identity;
mod inside;
mod mounts;
mod naive;
mod network;
mod planted;
mod projects;
mod registries;
mod repositories;
mod resources;
mod runtime;
mod secrets;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::Instant;

use attack::{Attack, Control, Level, Row, Way};
use stage::Stage;

/// A variable that asks for more: how long each row took, and what was seen with the wall and without.
const TOLD: &str = "COFFERDAM_WALLS_TOLD";

fn main() -> ExitCode {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if std::env::args().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    if !cofferdam_tests::is_root() {
        println!("these tests need root");
        return ExitCode::FAILURE;
    }
    attack::catch_messages();
    // SAFETY: no other thread runs yet. Everything started from here on inherits it.
    unsafe { std::env::set_var("WALLS_HOST", planted::TEXT) };
    let attacks: Vec<&Attack> = all().filter(|attack| chosen(attack, &words)).collect();
    println!("{:<26} {:<10} {:<13} {:<8} what", "attack", "level", "control", "held");
    let mut rows = Vec::new();
    if let Err(why) = attack::attempt(|| document::agrees(&all().collect::<Vec<_>>())) {
        rows.push(trouble(Level::Namespaces, "docs/threat-model.md says what is tried", why));
    }
    let mut controls = BTreeMap::new();
    for level in levels() {
        let here: Vec<&&Attack> =
            attacks.iter().filter(|attack| attack.levels.contains(&level)).collect();
        if here.is_empty() {
            continue;
        }
        match attack::attempt(|| Stage::new(level)) {
            Ok(stage) => {
                rows.extend(here.iter().map(|attack| tried(attack, &stage, &mut controls)));
                rows.extend(ended(level, stage, words.is_empty()));
            }
            Err(why) => rows.push(trouble(level, "the level can be had on this machine", why)),
        }
    }
    planted::Planted::get().remove();
    cage::Cage::remove();
    summary(&rows)
}

/// Every attack there is.
fn all() -> impl Iterator<Item = &'static Attack> {
    [
        inside::ATTACKS,
        runtime::ATTACKS,
        identity::ATTACKS,
        mounts::ATTACKS,
        archives::ATTACKS,
        registries::ATTACKS,
        repositories::ATTACKS,
        graphs::ATTACKS,
        network::ATTACKS,
        resources::ATTACKS,
        projects::ATTACKS,
        secrets::ATTACKS,
    ]
    .into_iter()
    .flatten()
}

fn chosen(attack: &Attack, words: &[String]) -> bool {
    words.is_empty()
        || words.iter().any(|word| attack.name.contains(word.as_str()) || attack.class == word)
}

fn levels() -> Vec<Level> {
    let without = std::env::var("COFFERDAM_WALLS_WITHOUT").unwrap_or_default();
    let without: BTreeSet<&str> = without.split(',').filter(|word| !word.is_empty()).collect();
    for word in &without {
        let known = Level::ALL.iter().any(|level| level.name() == *word);
        assert!(known, "COFFERDAM_WALLS_WITHOUT: {word} is no level");
    }
    Level::ALL.into_iter().filter(|level| !without.contains(level.name())).collect()
}

type Controls = BTreeMap<&'static str, Result<Control, String>>;

fn tried(attack: &Attack, stage: &Stage, controls: &mut Controls) -> Row {
    let begun = Instant::now();
    let row = attack.run(stage, controls.get(attack.name).cloned());
    if std::env::var_os(TOLD).is_some() {
        println!("{:.1}s", begun.elapsed().as_secs_f64());
    }
    controls.insert(attack.name, row.control.clone());
    print(&row);
    row
}

/// Ends a builder: one that leaves something is as bad as one that falls.
fn ended(level: Level, stage: Stage, all: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let unused = if all { unused_keys(&stage) } else { Vec::new() };
    if !unused.is_empty() {
        rows.push(trouble(level, "every attempt of the probe is in a row", format!("{unused:?}")));
    }
    if let Err(why) = attack::attempt(|| drop(stage)) {
        rows.push(trouble(level, "the builder ends and leaves nothing", why));
    }
    rows
}

/// A row that is no attack, and not good.
fn trouble(level: Level, what: &'static str, why: String) -> Row {
    let control = Ok(Control::Impossible("it is no attack"));
    let row = Row { level, name: "-", what, control, held: Err(why) };
    print(&row);
    row
}

fn print(row: &Row) {
    let control = match &row.control {
        Ok(Control::Shown(_)) => "works without",
        Ok(Control::Impossible(_)) => "none",
        Err(_) => "DOES NOT WORK",
    };
    let held = if row.held.is_ok() { "held" } else { "NOT HELD" };
    println!("{:<26} {:<10} {:<13} {:<8} {}", row.name, row.level, control, held, row.what);
    for trouble in [row.control.as_ref().err(), row.held.as_ref().err()].into_iter().flatten() {
        println!("    {}", trouble.lines().take(40).collect::<Vec<_>>().join("\n    "));
    }
    let told = std::env::var_os(TOLD).is_some();
    match (&row.control, &row.held) {
        (Ok(Control::Shown(shown)), Ok(seen)) if told => {
            println!("    without: {shown}\n    with: {seen}")
        }
        (Ok(Control::Impossible(why)), Ok(_)) => println!("    no control: {why}"),
        _ => {}
    }
}

fn summary(rows: &[Row]) -> ExitCode {
    println!();
    for level in Level::ALL {
        let here: Vec<&Row> = rows.iter().filter(|row| row.level == level).collect();
        if here.is_empty() {
            continue;
        }
        let held = here.iter().filter(|row| row.held.is_ok()).count();
        let shown = here.iter().filter(|row| matches!(row.control, Ok(Control::Shown(_)))).count();
        println!("{level:<10} {held} of {} held, {shown} with a control", here.len());
    }
    let bad = rows.iter().filter(|row| !row.good()).count();
    if bad > 0 {
        println!("{bad} rows are not good");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What the probe tries and no row looks at.
fn unused_keys(stage: &Stage) -> Vec<String> {
    let used: BTreeSet<&str> = all()
        .filter_map(|attack| match &attack.way {
            Way::Probe(keys) | Way::ProbeAlone(keys, _) => Some(*keys),
            Way::Own { .. } => None,
        })
        .flatten()
        .copied()
        .collect();
    stage.inside().keys().filter(|key| !used.contains(key)).map(str::to_owned).collect()
}
