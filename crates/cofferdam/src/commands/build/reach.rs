//! Hosts that the builder this command starts may reach, public or not, because the command line says to use them.
//!
//! A person who writes `-t localhost:5000/app --push` has said where to push. What a Dockerfile or a project descriptor says is
//! somebody else's word and opens nothing, and neither does a value that only looks like a place: branches and titles end up in
//! `--build-arg` and `--label`.

use cofferdam_client::Solve;
use cofferdam_egress::Rule;

/// Attributes of frontends that name where something is to be got or put. `context:` begins those of named contexts.
const PLACES: &[&str] = &[
    "builder",
    "buildpacks",
    "cache-image",
    "context",
    "extensions",
    "image",
    "post-buildpacks",
    "pre-buildpacks",
    "previous-image",
    "run-image",
    "tags",
];

/// Hosts with ports, as far as ports are given, of the places that the build uses and that are in the command's `arguments`.
pub(super) fn hosts(solve: &Solve, arguments: &[String]) -> Vec<String> {
    let exporters = solve.exporters.iter().filter_map(|exporter| exporter.attrs.get("name"));
    let caches = solve.cache_imports.iter().chain(&solve.cache_exports);
    let caches = caches.filter_map(|cache| cache.attrs.get("ref"));
    let place = |key: &str| PLACES.contains(&key) || key.starts_with("context:");
    let attrs = solve.frontend_attrs.iter().filter(|(key, _)| place(key)).map(|(_, value)| value);
    let mut hosts: Vec<String> = Vec::new();
    for text in exporters.chain(caches).chain(attrs) {
        // Several names are separated by commas, or are a list in JSON.
        for host in text.split([',', '"', ' ']).filter_map(host) {
            let said = arguments.iter().any(|argument| argument.contains(&host));
            if said && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
    }
    hosts
}

fn host(word: &str) -> Option<String> {
    let rest = word.rsplit_once("://").map_or(word, |(_, rest)| rest);
    let authority = rest.split_once('/')?.0;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // As in image names: without a dot, a port or this name it is a directory or a user of a public registry.
    let remote = host.contains(['.', ':']) || host == "localhost";
    (remote && host.parse::<Rule>().is_ok()).then(|| host.to_owned())
}

#[cfg(test)]
mod tests {
    use cofferdam_client::{CacheEntry, Exporter};

    use super::*;

    fn solve() -> Solve {
        let attrs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let cache =
            |place: &str| CacheEntry { kind: "registry".into(), attrs: attrs(&[("ref", place)]) };
        Solve {
            exporters: vec![Exporter {
                kind: "image".into(),
                attrs: attrs(&[("name", "localhost:5000/app,user/app")]),
            }],
            cache_exports: vec![cache("10.0.0.1:5000/c")],
            frontend_attrs: attrs(&[
                ("context", "https://u@git.corp:8443/x.git"),
                ("context:base", "docker-image://registry.corp/base"),
                ("post-buildpacks", "[\"docker://r.corp:1/bp\",\"./dir/bp\"]"),
                ("build-arg:BRANCH", "127.0.0.1:80/x"),
                ("label:title", "http://127.0.0.1:81/x"),
                ("builder", "127.0.0.1:82/builder"),
            ]),
            ..Solve::default()
        }
    }

    #[test]
    fn places_of_the_command_line_are_open_and_nothing_else() {
        let line = "build -t localhost:5000/app -t user/app --cache-to ref=10.0.0.1:5000/c \
                    --build-context base=docker-image://registry.corp/base --post-buildpack docker://r.corp:1/bp \
                    --build-arg BRANCH=127.0.0.1:80/x --label title=http://127.0.0.1:81/x https://u@git.corp:8443/x.git";
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let found = hosts(&solve(), &arguments);
        assert_eq!(
            found,
            ["localhost:5000", "10.0.0.1:5000", "git.corp:8443", "registry.corp", "r.corp:1"],
            "not build arguments, not labels, not a builder of a project descriptor"
        );
        assert!(hosts(&solve(), &[]).is_empty());
    }
}
