//! Hosts named on the command line, which the builder that this command starts may therefore reach, public or not.
//!
//! A person who writes `-t localhost:5000/app --push` has said where to push. What a Dockerfile or a project descriptor says is
//! somebody else's word and opens nothing.

use cofferdam_egress::Rule;

/// Hosts with ports, as far as ports are given, of everything in the arguments that looks like an image or a URL.
pub(super) fn hosts(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for argument in arguments {
        for host in argument.split([',', '=', ' ']).filter_map(host) {
            if !hosts.contains(&host) {
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
    use super::*;

    #[test]
    fn images_and_urls_name_hosts() {
        let line = "build -t localhost:5000/app --cache-to type=registry,ref=10.0.0.1:5000/c \
                    --build-context base=docker-image://registry.corp/base https://u@git.corp:8443/x.git \
                    -f dir/Dockerfile ./a.b/c user/app localhost/x ../y";
        let found = hosts(line.split(' ').map(str::to_owned));
        assert_eq!(
            found,
            ["localhost:5000", "10.0.0.1:5000", "registry.corp", "git.corp:8443", "localhost"]
        );
    }
}
