//! History entries: what `docker history` shows of an image.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chrono::{DateTime, SecondsFormat};

use super::Converter;
use super::env::Env;
use super::stage::Stage;
use crate::image::{HISTORY_COMMENT, History};
use crate::instructions::ArgPair;

impl Converter<'_> {
    /// Adds an entry for an instruction; `layer` when it made one.
    pub(super) fn commit(&self, stage: &mut Stage, text: &str, layer: bool) {
        stage.image.history.push(History {
            created: self.epoch.and_then(rfc3339),
            created_by: text.to_owned(),
            comment: HISTORY_COMMENT.to_owned(),
            empty_layer: !layer,
            ..History::default()
        });
    }
}

/// `2006-01-02T15:04:05Z`.
pub(crate) fn rfc3339(seconds: i64) -> Option<String> {
    let time = DateTime::from_timestamp(seconds, 0)?;
    Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// `|2 A=1 B=2 /bin/sh -c make`: a command with the arguments it was given.
pub(super) fn command_line(words: &[String], args: &[ArgPair], env: &Env) -> String {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut given: Vec<String> = Vec::new();
    for arg in args {
        let value = env.value(&arg.key).or(arg.value.as_deref()).unwrap_or_default();
        let text = format!("{}={value}", arg.key);
        match places.entry(&arg.key) {
            Entry::Occupied(place) => given[*place.get()] = text,
            Entry::Vacant(place) => {
                place.insert(given.len());
                given.push(text);
            }
        }
    }
    let count = (!given.is_empty()).then(|| format!("|{}", given.len()));
    let words = words.iter().cloned();
    count.into_iter().chain(given).chain(words).collect::<Vec<_>>().join(" ")
}
