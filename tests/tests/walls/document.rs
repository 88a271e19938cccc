//! The threat model and the table of attacks: what one names the other has.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_tests::repository;

use crate::attack::{Attack, Level};

/// Panics unless `docs/threat-model.md` lists exactly these attacks with their levels, and its matrix names no other.
pub(crate) fn agrees(attacks: &[&Attack]) {
    let text = std::fs::read_to_string(repository().join("docs/threat-model.md")).unwrap();
    let listed: BTreeMap<&str, &str> = text.lines().filter_map(listed).collect();
    let known: BTreeMap<&str, String> =
        attacks.iter().map(|attack| (attack.name, letters(attack.levels))).collect();
    assert_eq!(known.len(), attacks.len(), "two attacks have one name");
    for (name, levels) in &known {
        assert_eq!(listed.get(name), Some(&levels.as_str()), "{name} in docs/threat-model.md");
    }
    let unknown: Vec<&&str> = listed.keys().filter(|name| !known.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "docs/threat-model.md lists what is not tried: {unknown:?}");
    let named: BTreeSet<&str> =
        text.lines().filter(|line| line.starts_with("| ")).flat_map(quoted).collect();
    let missing: Vec<&&str> = known.keys().filter(|name| !named.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let matrix = text.lines().filter(|line| line.matches('|').count() == 9).flat_map(quoted);
    for name in matrix.filter(|name| name.contains('-') || known.contains_key(name)) {
        let data = ["urls"].contains(&name);
        assert!(data || known.contains_key(name), "the matrix names {name}, which is not tried");
    }
}

/// Name and levels of a row of an attack.
fn listed(line: &str) -> Option<(&str, &str)> {
    let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
    let [name, _, levels] = cells.as_slice() else { return None };
    let letters = levels.split(' ').all(|letter| ["n", "g", "v"].contains(&letter));
    letters.then(|| (name.trim_matches('`'), *levels))
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn letters(levels: &[Level]) -> String {
    let letters: Vec<&str> = levels.iter().map(|level| &level.name()[..1]).collect();
    letters.join(" ")
}
