//! Hosts that the builder this command starts may reach, public or not, because the command line says to use them.
//!
//! A person who writes `-t localhost:5000/app --push` has said where to push. What a Dockerfile or a project descriptor says is
//! somebody else's word and opens nothing, and neither does a value that only looks like a place: branches and titles end up in
//! `--build-arg` and `--label`.

use std::collections::BTreeMap;

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

/// The attribute with the options of an SBOM, and the option that names the image of its scanner.
const SBOM: &str = "attest:sbom";
const GENERATOR: &str = "generator=";

/// Hosts with ports, as far as ports are given, of the places that the build uses and that are in the command's `arguments`.
pub(super) fn hosts(solve: &Solve, arguments: &[String]) -> Vec<String> {
    let exporters = solve.exporters.iter().filter_map(|exporter| exporter.attrs.get("name"));
    let caches = || solve.cache_imports.iter().chain(&solve.cache_exports);
    let images = caches().filter_map(|cache| cache.attrs.get("ref"));
    let place = |key: &str| PLACES.contains(&key) || key.starts_with("context:");
    let attrs = solve.frontend_attrs.iter().filter(|(key, _)| place(key)).map(|(_, value)| value);
    // Several names are separated by commas, or are a list in JSON.
    let named = exporters.chain(images).chain(attrs).flat_map(|text| words(text)).filter_map(host);
    let scanner = solve.frontend_attrs.get(SBOM).into_iter().flat_map(|text| words(text));
    let scanner = scanner.filter_map(|word| host(word.strip_prefix(GENERATOR)?));
    let named = named.chain(scanner).map(|host| (host.clone(), host));
    let mut hosts: Vec<String> = Vec::new();
    for (said, host) in named.chain(caches().flat_map(|cache| bucket(&cache.attrs))) {
        let said = arguments.iter().any(|argument| says(argument, &said));
        if said && !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

/// What of a cache in S3 has to be said, and the hosts that this opens: requests may have the bucket before the host's name.
fn bucket(attrs: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let Some(server) = attrs.get("endpoint_url").and_then(|url| server(url)) else {
        return Vec::new();
    };
    let within = attrs.get("bucket").map(|bucket| format!("{bucket}.{server}"));
    let within = within.filter(|host| host.parse::<Rule>().is_ok());
    let all = std::iter::once(server.clone()).chain(within);
    all.map(|host| (server.clone(), host)).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', '"', ' '])
}

/// Whether an argument has that host in it as a whole: not as a part of another's name.
fn says(argument: &str, host: &str) -> bool {
    // `-tHOST/NAME` is one argument.
    let attached = argument.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
    let attached = attached.and_then(|rest| rest.get(1..)).unwrap_or_default();
    let parts = |text: &str| text.split([',', '"', ' ', '=', '/', '@']).any(|part| part == host);
    parts(argument) || parts(attached)
}

/// The registry of an image, or the host of a URL with a path.
fn host(word: &str) -> Option<String> {
    let rest = word.rsplit_once("://").map_or(word, |(_, rest)| rest);
    let host = without_user(rest.split_once('/')?.0);
    // As in image names: without a dot, a port or this name it is a directory or a user of a public registry.
    let remote = host.contains(['.', ':']) || host == "localhost";
    (remote && host.parse::<Rule>().is_ok()).then(|| host.to_owned())
}

/// The host of a URL, which needs no path.
fn server(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let host = without_user(rest.split(['/', '?', '#']).next()?);
    host.parse::<Rule>().is_ok().then(|| host.to_owned())
}

fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
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
            cache_imports: vec![CacheEntry {
                kind: "s3".into(),
                attrs: attrs(&[("bucket", "b"), ("endpoint_url", "http://minio:9000")]),
            }],
            frontend_attrs: attrs(&[
                ("context", "https://u@git.corp:8443/x.git"),
                ("context:base", "docker-image://registry.corp/base"),
                ("post-buildpacks", "[\"docker://r.corp:1/bp\",\"./dir/bp\"]"),
                ("build-arg:BRANCH", "127.0.0.1:80/x"),
                ("label:title", "http://127.0.0.1:81/x"),
                ("builder", "127.0.0.1:82/builder"),
                ("run-image", "localhost/run"),
                ("attest:sbom", "generator=scan.corp:5000/s:1,other=127.0.0.1:83/x"),
            ]),
            ..Solve::default()
        }
    }

    #[test]
    fn places_of_the_command_line_are_open_and_nothing_else() {
        let line = "build -t localhost:5000/app -t user/app --cache-to ref=10.0.0.1:5000/c \
                    --build-context base=docker-image://registry.corp/base --post-buildpack docker://r.corp:1/bp \
                    --build-arg BRANCH=127.0.0.1:80/x --label title=http://127.0.0.1:81/x \
                    --label where=notlocalhost/run --label port=localhost:1/run \
                    --cache-from type=s3,bucket=b,endpoint_url=http://minio:9000 \
                    --attest type=sbom,generator=scan.corp:5000/s:1,other=127.0.0.1:83/x https://u@git.corp:8443/x.git";
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let found = hosts(&solve(), &arguments);
        assert_eq!(
            found,
            [
                "localhost:5000",
                "10.0.0.1:5000",
                "git.corp:8443",
                "registry.corp",
                "r.corp:1",
                "scan.corp:5000",
                "minio:9000",
                "b.minio:9000"
            ],
            "not build arguments, not labels, not a builder or a run image of a project descriptor"
        );
        assert!(hosts(&solve(), &[]).is_empty());
    }

    #[test]
    fn a_host_is_said_when_it_stands_there_whole() {
        for argument in [
            "localhost/run",
            "-tlocalhost/run",
            "--tag=localhost/run",
            "ref=localhost/run,mode=max",
            "docker-image://localhost/run",
            "https://user@localhost/x.git",
        ] {
            assert!(says(argument, "localhost"), "{argument}");
        }
        for argument in ["notlocalhost/run", "localhost.corp/run", "localhost:5000/run", "-tx", "-"]
        {
            assert!(!says(argument, "localhost"), "{argument}");
        }
    }
}
