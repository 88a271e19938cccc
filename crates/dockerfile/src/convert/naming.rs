//! Names of vertices, as clients show them: `[linux/arm64 build 2/3] RUN make`.

use cofferdam_graph::{normalize_platform, parse_platform, platform_string};
use cofferdam_wire::pb;

use super::env::Env;
use super::stage::Stage;
use crate::expand::{Expander, Variables};

impl Stage {
    /// The next number of the stage in brackets; nothing for images that only `--from` names.
    pub(super) fn next_prefix(&mut self, platform: Option<&pb::Platform>, env: &Env) -> String {
        if self.counter.total == 0 {
            return String::new();
        }
        self.counter.index += 1;
        let platform = platform.map(|own| {
            let target = target_from(env).map(|target| cross(own, target)).unwrap_or_default();
            format!("{}{target} ", platform_string(own))
        });
        let name = if self.name.is_empty() { String::new() } else { format!("{} ", self.name) };
        let width = self.counter.total.to_string().len();
        format!(
            "[{}{name}{:width$}/{}] {}",
            platform.unwrap_or_default(),
            self.counter.index,
            self.counter.total,
            if self.counter.onbuild { "ONBUILD " } else { "" },
        )
    }
}

/// An instruction for display: its keyword in capitals, variables replaced where that works.
pub(super) fn display<V: Variables + ?Sized>(expander: &Expander, text: &str, env: &V) -> String {
    let text =
        expander.expand(text, env).map_or_else(|_| text.to_owned(), |expanded| expanded.text);
    match text.split_once(' ') {
        Some((keyword, rest)) => format!("{} {rest}", keyword.to_uppercase()),
        None => text.to_uppercase(),
    }
}

/// The platform a cross-compiling stage builds for, as far as it declares it.
fn target_from(env: &Env) -> Option<pb::Platform> {
    let mut target = pb::Platform::default();
    let mut known = false;
    for name in env.names() {
        let value = || env.value(name).unwrap_or_default().to_owned();
        match name {
            "TARGETPLATFORM" => match parse_platform(&value()) {
                Ok(platform) => return Some(platform),
                Err(_) => continue,
            },
            "TARGETOS" => target.OS = value(),
            "TARGETARCH" => target.Architecture = value(),
            "TARGETVARIANT" => target.Variant = value(),
            _ => continue,
        }
        known = true;
    }
    known.then_some(target)
}

/// `->arm64` when `target` is another platform than `own`.
fn cross(own: &pb::Platform, mut target: pb::Platform) -> String {
    if target.OS.is_empty() {
        target.OS.clone_from(&own.OS);
    }
    if target.Architecture.is_empty() {
        target.Architecture.clone_from(&own.Architecture);
    }
    let target = normalize_platform(&target);
    if target.OS != own.OS {
        return format!("->{}", platform_string(&target));
    }
    if target.Architecture == own.Architecture {
        return String::new();
    }
    let text = platform_string(&target);
    text.split_once('/').map(|(_, rest)| format!("->{rest}")).unwrap_or_default()
}

/// The first line of a heredoc, to tell one from another.
pub(super) fn summarize(document: &str) -> String {
    let document = document.trim();
    let mut lines = document.lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_some() { format!("{first}...") } else { first.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> pb::Platform {
        parse_platform(text).unwrap_or_default()
    }

    #[test]
    fn prefixes_count_and_align() {
        let mut stage = Stage { name: "build".to_owned(), ..Stage::default() };
        assert_eq!(stage.next_prefix(None, &Env::default()), "");
        stage.counter.total = 12;
        assert_eq!(stage.next_prefix(None, &Env::default()), "[build  1/12] ");
        let mut env = Env::default();
        env.set("TARGETARCH", "arm64");
        let amd64 = platform("linux/amd64");
        assert_eq!(stage.next_prefix(Some(&amd64), &env), "[linux/amd64->arm64 build  2/12] ");
        env.set("TARGETPLATFORM", "linux/amd64");
        assert_eq!(stage.next_prefix(Some(&amd64), &env), "[linux/amd64 build  3/12] ");
    }

    #[test]
    fn heredocs_are_summarized() {
        assert_eq!(summarize("\n one \ntwo\n"), "one ...");
        assert_eq!(summarize("one\n"), "one");
        assert_eq!(summarize(""), "");
    }
}
