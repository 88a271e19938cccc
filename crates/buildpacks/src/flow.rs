//! Which flow a build takes: decided by where its modules come from, and by nothing else.
//!
//! The rules are pack's, except that trust is bound to a registry and that the extensions of a
//! builder's own order count. A name in a module must never change the decision, only its origin.

use cofferdam_cnb::Kind;
use serde::Serialize;

use crate::text::printable;
use crate::trust::Verdict;

/// What people's scripts look for when modules change the flow of a trusted builder.
pub const DOWNGRADE_WARNING: &str = "Builder is trusted but additional modules were added; using the untrusted (5 phases) build flow";

/// A flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flow {
    /// Detection and build share one sandbox root.
    Trusted,
    /// Every call gets a fresh root.
    Untrusted,
}

impl Flow {
    /// Its phases, in order.
    #[must_use]
    pub const fn phases(self) -> &'static [&'static str] {
        match self {
            Self::Trusted => &["prepare", "build", "export"],
            Self::Untrusted => &["analyze", "detect", "restore", "build", "export"],
        }
    }

    /// `trusted` or `untrusted`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }
}

/// Where a module that somebody asked for comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It is in the builder already.
    Builder,
    /// It is a script of the project descriptor.
    Inline,
    /// It was brought along, as a module of its own or as a dependency of one.
    Fetched {
        /// Where it was fetched from, as it was written.
        locator: String,
        /// Who asked: `--buildpack`, `--pre-buildpack`, `--post-buildpack`, `--extension` or the
        /// project descriptor's name.
        option: String,
    },
}

/// A module that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleOrigin {
    /// `id@version`, or its locator where that is not known.
    pub module: String,
    /// Where it comes from.
    pub source: Source,
    /// What it is.
    pub kind: Kind,
}

/// The flow of a build, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The flow.
    pub flow: Flow,
    /// Why, one sentence without a full stop.
    pub reason: String,
    /// Modules that caused an untrusted flow, in the order they were given.
    pub modules: Vec<String>,
    /// For whoever asked.
    pub warnings: Vec<String>,
}

/// Decides.
///
/// `trust_extra` is `--trust-extra-buildpacks`. `extensions_in_order` says whether the effective
/// order has extensions, whoever they come from.
#[must_use]
pub fn decide(
    builder: &Verdict,
    modules: &[ModuleOrigin],
    trust_extra: bool,
    extensions_in_order: bool,
) -> Decision {
    let brought = |kind: Kind| {
        let is = |module: &&ModuleOrigin| module.kind == kind && module.is_fetched();
        modules.iter().filter(is).collect::<Vec<_>>()
    };
    let (extensions, buildpacks) = (brought(Kind::Extension), brought(Kind::Buildpack));
    let of_builder =
        |module: &&ModuleOrigin| module.kind == Kind::Extension && !module.is_fetched();
    let own = modules.iter().filter(of_builder).collect::<Vec<_>>();
    let mut reasons = Vec::new();
    if !extensions.is_empty() {
        reasons.push(format!("extensions were added: {}", list(&extensions)));
    }
    let blamed = !buildpacks.is_empty() && !trust_extra;
    if blamed {
        let added = list(&buildpacks);
        reasons.push(format!("buildpacks were added that are not in the builder: {added}"));
    }
    let downgraded = builder.trusted && !reasons.is_empty();
    // An order that was replaced by added extensions is told above.
    if !own.is_empty() || (extensions_in_order && extensions.is_empty()) {
        let named = if own.is_empty() { String::new() } else { format!(": {}", list(&own)) };
        reasons.push(format!("the builder's order has extensions{named}"));
    }
    if !builder.trusted {
        reasons.insert(0, format!("the builder {}", builder.why));
    }
    let flow = if reasons.is_empty() { Flow::Trusted } else { Flow::Untrusted };
    let reason = match flow {
        Flow::Untrusted => reasons.join("; "),
        Flow::Trusted => {
            format!("the builder {} and {}", builder.why, harmless(modules, trust_extra))
        }
    };
    let causes =
        |module: &&ModuleOrigin| module.kind == Kind::Extension || (blamed && module.is_fetched());
    let warning = downgraded.then(|| DOWNGRADE_WARNING.to_owned());
    Decision {
        flow,
        reason,
        modules: distinct(modules.iter().filter(causes).map(|module| module.module.clone())),
        warnings: warning.into_iter().collect(),
    }
}

impl ModuleOrigin {
    const fn is_fetched(&self) -> bool {
        matches!(self.source, Source::Fetched { .. })
    }
}

/// Why the modules of a trusted flow do not change it.
fn harmless(modules: &[ModuleOrigin], trust_extra: bool) -> String {
    let fetched = modules.iter().filter(|module| module.is_fetched()).collect::<Vec<_>>();
    if trust_extra && !fetched.is_empty() {
        return format!("--trust-extra-buildpacks covers what was added: {}", list(&fetched));
    }
    let inline = modules.iter().any(|module| module.source == Source::Inline);
    let and = if inline { " and inline scripts" } else { "" };
    format!("only its own modules{and} take part")
}

/// Each once, in the order they come: a dependency may be shared.
fn distinct(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

fn list(modules: &[&ModuleOrigin]) -> String {
    let shown = |module: &&ModuleOrigin| match &module.source {
        Source::Fetched { option, .. } => {
            format!("{} ({})", printable(&module.module), printable(option))
        }
        Source::Builder | Source::Inline => printable(&module.module),
    };
    distinct(modules.iter().map(shown)).join(", ")
}

#[cfg(test)]
mod tests;
