//! What a build said: exit code, output, and its steps as the plain display shows them.

use std::collections::BTreeMap;

/// One step of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step {
    /// What is shown.
    pub name: String,
    /// Whether its result was there already.
    pub cached: bool,
    /// Whether it ended well, cached or not.
    pub done: bool,
    /// Why it failed.
    pub error: Option<String>,
    /// Lines it wrote, without their times.
    pub log: Vec<String>,
}

/// An ended build.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, where progress goes.
    pub stderr: String,
}

impl Outcome {
    /// Itself when the build succeeded.
    ///
    /// # Panics
    /// With everything the build said when it did not.
    #[must_use]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "the build failed:\n{}", self.stderr);
        self
    }

    /// What the failed build said.
    ///
    /// # Panics
    /// When it succeeded or was ended by a signal.
    #[must_use]
    pub fn failure(self) -> String {
        assert!(
            self.code.is_some_and(|code| code != 0),
            "the build did not fail ({:?}):\n{}",
            self.code,
            self.stderr
        );
        self.stderr
    }

    /// What it printed.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// What it printed, as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.text(), self.stderr))
    }

    /// Every step, in order of appearance.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: BTreeMap<usize, Step> = BTreeMap::new();
        for line in self.stderr.lines() {
            let Some((number, rest)) = line.strip_prefix('#').and_then(|line| line.split_once(' '))
            else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            match steps.get_mut(&number) {
                Some(step) => step.take(rest),
                None => {
                    steps.insert(number, Step { name: rest.to_owned(), ..Step::default() });
                }
            }
        }
        let mut merged: Vec<Step> = Vec::new();
        for step in steps.into_values() {
            match merged.iter_mut().find(|earlier| earlier.name == step.name) {
                Some(earlier) => earlier.resume(step),
                None => merged.push(step),
            }
        }
        merged
    }

    /// Steps of the Dockerfile; bookkeeping of builder and frontend is left out.
    #[must_use]
    pub fn user_steps(&self) -> Vec<Step> {
        let own = |name: &str| {
            name.starts_with("[internal]") || name.starts_with("[auth]") || !name.starts_with('[')
        };
        self.steps().into_iter().filter(|step| !own(&step.name)).collect()
    }

    /// The step whose name contains `part`.
    ///
    /// # Panics
    /// When there is none or more than one.
    #[must_use]
    pub fn step(&self, part: &str) -> Step {
        let mut found: Vec<Step> =
            self.steps().into_iter().filter(|step| step.name.contains(part)).collect();
        assert_eq!(found.len(), 1, "steps with {part:?}:\n{}", self.stderr);
        found.remove(0)
    }

    /// Whether a step with `part` in its name appeared at all.
    #[must_use]
    pub fn mentions(&self, part: &str) -> bool {
        self.steps().iter().any(|step| step.name.contains(part))
    }

    /// Names of the Dockerfile's steps that were cached.
    #[must_use]
    pub fn cached(&self) -> Vec<String> {
        self.named(true)
    }

    /// Names of the Dockerfile's steps that ran; base images, which are only looked up, are left out.
    #[must_use]
    pub fn ran(&self) -> Vec<String> {
        let mut names = self.named(false);
        names.retain(|name| !name.contains("] FROM "));
        names
    }

    fn named(&self, cached: bool) -> Vec<String> {
        self.user_steps()
            .into_iter()
            .filter(|step| step.cached == cached)
            .map(|step| step.name)
            .collect()
    }

    /// Lines written by the step whose name contains `part`.
    #[must_use]
    pub fn log(&self, part: &str) -> String {
        self.step(part).log.join("\n")
    }

    /// Lines written by the last step whose name contains `part`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn last_log(&self, part: &str) -> String {
        let last = self.steps().into_iter().rev().find(|step| step.name.contains(part));
        last.unwrap_or_else(|| panic!("no step with {part:?}:\n{}", self.stderr)).log.join("\n")
    }
}

impl Step {
    /// Adds a later interval of the same step.
    fn resume(&mut self, later: Self) {
        self.cached = later.cached;
        self.done = later.done;
        self.error = later.error;
        self.log.extend(later.log);
    }

    fn take(&mut self, line: &str) {
        match line {
            "CACHED" => (self.cached, self.done) = (true, true),
            "..." => {}
            line if line == self.name => {}
            line if line.starts_with("DONE ") => self.done = true,
            "CANCELED" => self.error = Some("canceled".to_owned()),
            line => match line.strip_prefix("ERROR: ") {
                Some(error) => self.error = Some(error.to_owned()),
                None => self.log.extend(log_line(line)),
            },
        }
    }
}

/// The text after the time since the step's start.
fn log_line(line: &str) -> Option<String> {
    let (time, text) = line.split_once(' ').unwrap_or((line, ""));
    time.parse::<f64>().is_ok().then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_progress_is_read() {
        let stderr = "#1 [internal] load build definition\n#1 DONE 0.0s\n\n#2 [1/2] FROM x\n#2 CACHED\n\n#3 [2/2] RUN echo\n\
            #3 0.012 hello world\n#3 ...\n\n#4 exporting\n#4 DONE 0.1s\n\n#3 [2/2] RUN echo\n#3 1.5 more\n#3 ERROR: exit code: 3\n------\n";
        let outcome = Outcome { code: Some(1), stdout: Vec::new(), stderr: stderr.to_owned() };
        assert_eq!(outcome.steps().len(), 4);
        assert_eq!(outcome.cached(), ["[1/2] FROM x"]);
        assert_eq!(outcome.log("RUN echo"), "hello world\nmore");
        assert_eq!(outcome.step("RUN echo").error.as_deref(), Some("exit code: 3"));
        assert_eq!(outcome.ran(), ["[2/2] RUN echo"]);
        assert!(!outcome.mentions("COPY"));
    }
}
