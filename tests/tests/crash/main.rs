//! Servers and builders that are killed at random moments under load, and all that must hold afterwards: what was finished is
//! still there, no result is wrong, no blob is damaged, and nothing is left on the host.
//!
//! `CRASH_KILLS` says how often something is killed, 50 times without it. `CRASH_SEED` repeats the choices of an earlier run; the
//! moments are then nearly the same. `make crash` does this for an hour.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that cannot go on should stop where it is"
)]

mod alone;
mod blobs;
mod dice;
mod load;
mod served;
mod story;
mod victims;

use std::time::{SystemTime, UNIX_EPOCH};

use cofferdam_tests::need_root;

use alone::Alone;
use dice::Dice;
use load::Known;
use served::Served;
use story::Story;

/// Kills when nobody says how many.
const KILLS: u64 = 50;
/// After so many kills everything is looked at, not only what the last one can have touched.
const THOROUGH: u64 = 10;
/// Of ten kills, those of a server and what belongs to it; the others are of a builder by itself.
const SERVED: u64 = 7;

#[test]
fn nothing_finished_is_lost_nothing_is_wrong_and_nothing_is_left() {
    need_root();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = setting("CRASH_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let kills = setting("CRASH_KILLS").unwrap_or(KILLS);
    let mut story = Story::begin(seed, kills);
    let mut dice = Dice::new(seed);
    let mut known = Known::default();
    let mut served = Served::start(&mut story);
    let mut alone = Alone::start(&mut known, &mut story);
    for round in 1..=kills {
        let thorough = round % THOROUGH == 0 || round == kills;
        if dice.below(10) < SERVED {
            served.round(round, &mut dice, &mut known, &mut story);
        } else {
            alone.round(round, &mut dice, &mut known, &mut story);
        }
        if thorough {
            served.look_at_everything(&mut dice, &mut known, &mut story);
            alone.look_at_everything(&mut dice, &mut known, &mut story);
        }
    }
    served.stop(&mut story);
    alone.stop(&mut story);
    story.end();
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse::<u64>().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}
