//! One figure: what it is called, what it counts, and the values that its label can have.

use metrics::{Counter, Gauge, Histogram, Label, Unit};

/// The value of a figure without a label.
pub(crate) const ALL: &str = "";
const NONE: &[&str] = &[ALL];

/// How a figure moves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// Up.
    Counter,
    /// Up and down.
    Gauge,
    /// Samples, in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// A figure, or one for each value of its label.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    unit: Unit,
    help: &'static str,
    /// The label's name and every value.
    pub(crate) label: Option<(&'static str, &'static [&'static str])>,
}

impl Figure {
    /// What only grows.
    pub(super) const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, unit, help, label: None }
    }

    /// What is so many at the moment.
    pub(super) const fn gauge(name: &'static str, unit: Unit, help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, unit, help, label: None }
    }

    /// How long things take, in seconds.
    pub(super) const fn seconds(
        name: &'static str,
        buckets: &'static [f64],
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Histogram(buckets), unit: Unit::Seconds, help, label: None }
    }

    /// The same for each of these values.
    pub(super) const fn by(mut self, label: &'static str, values: &'static [&'static str]) -> Self {
        self.label = Some((label, values));
        self
    }

    /// The value, if the label can have it.
    pub(super) fn known(&self, value: &str) -> Option<&'static str> {
        self.label.and_then(|(_, values)| values.iter().find(|known| **known == value).copied())
    }

    fn labels(&self, value: &str) -> Vec<Label> {
        let known = self.known(value);
        debug_assert!(known.is_some() == self.label.is_some(), "{}: {value:?}", self.name);
        let labels = self.label.zip(known).map(|((name, _), value)| Label::new(name, value));
        labels.into_iter().collect()
    }

    /// The counter for a value.
    pub(crate) fn of(&self, value: &str) -> Counter {
        metrics::counter!(self.name, self.labels(value))
    }

    /// Adds to the counter for a value.
    pub(crate) fn count(&self, value: &str, more: u64) {
        self.of(value).increment(more);
    }

    fn gauge_of(&self, value: &str) -> Gauge {
        metrics::gauge!(self.name, self.labels(value))
    }

    /// Sets the gauge for a value.
    pub(crate) fn set(&self, value: &str, now: u64) {
        // Exact up to 2^53: bytes of more disks than anybody has.
        #[expect(clippy::cast_precision_loss)]
        self.gauge_of(value).set(now as f64);
    }

    fn histogram_of(&self, value: &str) -> Histogram {
        metrics::histogram!(self.name, self.labels(value))
    }

    /// Adds a sample for a value.
    pub(crate) fn observe(&self, value: &str, seconds: f64) {
        self.histogram_of(value).record(seconds);
    }

    /// Describes it, and begins it for every value at zero.
    pub(super) fn begin(&self) {
        match self.kind {
            Kind::Counter => metrics::describe_counter!(self.name, self.unit, self.help),
            Kind::Gauge => metrics::describe_gauge!(self.name, self.unit, self.help),
            Kind::Histogram(_) => metrics::describe_histogram!(self.name, self.unit, self.help),
        }
        for value in self.label.map_or(NONE, |(_, values)| values) {
            match self.kind {
                Kind::Counter => drop(self.of(value)),
                Kind::Gauge => drop(self.gauge_of(value)),
                Kind::Histogram(_) => drop(self.histogram_of(value)),
            }
        }
    }

    /// Its line in the documentation.
    #[cfg(test)]
    pub(super) fn row(&self) -> String {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let (label, values) = match self.label {
            None => (String::new(), String::new()),
            Some((name, values)) => {
                let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                (format!("{{{name}}}"), format!(": {}", values.join(", ")))
            }
        };
        format!("| `{}{label}` | {kind} | {}{values} |", self.name, self.help)
    }
}
