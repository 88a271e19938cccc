//! How lists of layers are written: numbers that follow each other as the first and the last of them.
//!
//! A build's layers are numbered in the order in which they were made, so that a list of any length is a few pairs of numbers.
//! A number by itself is a layer by itself. Must never make more of a damaged file than a tree may have layers.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::LayerId;

/// More layers than this in the lists of one record are damage: a Dockerfile makes 20,000 at the most, and a merge of several a few times that.
const MAX_LAYERS: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Run {
    One(LayerId),
    /// The first and the last.
    Several(LayerId, LayerId),
}

fn to_runs(list: &[LayerId]) -> Vec<Run> {
    let follows = |one: &LayerId, next: &LayerId| one.0.checked_add(1) == Some(next.0);
    let run = |run: &[LayerId]| match run {
        [first, .., last] => Some(Run::Several(*first, *last)),
        [one] => Some(Run::One(*one)),
        [] => None,
    };
    list.chunk_by(follows).filter_map(run).collect()
}

/// `room` is for how many more all lists together may hold.
fn to_list(runs: &[Run], room: &mut u64) -> Option<Vec<LayerId>> {
    let mut list = Vec::new();
    for run in runs {
        let (first, last) = match run {
            Run::One(one) => (one.0, one.0),
            Run::Several(first, last) => (first.0, last.0),
        };
        let more = last.checked_sub(first)?.checked_add(1)?;
        *room = room.checked_sub(more)?;
        list.extend((first..=last).map(LayerId));
    }
    Some(list)
}

pub(crate) fn serialize<S: Serializer>(
    lists: &[Vec<LayerId>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(lists.iter().map(|list| to_runs(list)))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Vec<LayerId>>, D::Error> {
    let lists: Vec<Vec<Run>> = Vec::deserialize(deserializer)?;
    let mut room = MAX_LAYERS;
    let lists = lists.iter().map(|runs| to_list(runs, &mut room)).collect::<Option<_>>();
    lists.ok_or_else(|| D::Error::custom("a list of layers that no tree can have"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(transparent)]
    struct Lists(#[serde(with = "super")] Vec<Vec<LayerId>>);

    fn read(text: &str) -> Option<Vec<Vec<u64>>> {
        let lists: Lists = serde_json::from_str(text).ok()?;
        let numbers = |list: Vec<LayerId>| list.into_iter().map(LayerId::get).collect();
        Some(lists.0.into_iter().map(numbers).collect())
    }

    #[track_caller]
    fn is_written(lists: &[&[u64]], text: &str) {
        let ids = |list: &&[u64]| list.iter().copied().map(LayerId).collect();
        let written = serde_json::to_string(&Lists(lists.iter().map(ids).collect())).unwrap();
        assert_eq!(written, text);
        assert_eq!(read(&written).unwrap(), lists);
    }

    #[test]
    fn numbers_that_follow_each_other_are_one_pair() {
        is_written(&[&[7, 8, 9, 12, 3, 4]], "[[[7,9],12,[3,4]]]");
        is_written(&[&[], &[5]], "[[],[5]]");
        is_written(&[&[5, 5, 4], &[u64::MAX]], &format!("[[5,5,4],[{}]]", u64::MAX));
        let long: Vec<u64> = (1..=10_000).collect();
        is_written(&[&long], "[[[1,10000]]]");
    }

    #[test]
    fn lists_without_runs_are_read_as_they_always_were() {
        assert_eq!(read("[[1,2,3],[9]]").unwrap(), [vec![1, 2, 3], vec![9]]);
    }

    #[test]
    fn damage_is_refused_before_there_is_room_for_it() {
        for text in [
            "[[[9,8]]]",
            "[[[0,18446744073709551615]]]",
            "[[[1,9000000000]]]",
            "[[[1,1048576],1]]",
            "[[[1,1048576]],[1]]",
            "[[[1,2,3]]]",
            "[[-1]]",
            "[[\"1\"]]",
            "[[[]]]",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
        assert_eq!(read("[[[1,1048576]]]").unwrap()[0].len(), 1 << 20);
    }
}
