//! Where a build runs: what is said with the command goes before what its environment says, and what is said for this program
//! before what is said for every BuildKit client.

use super::arguments::{BuildArgs, ServerChoice};
use crate::remote::SERVER;

/// Names a builder, before a server that the environment names.
const BUILDER: &str = "COFFERDAM_BUILDER";

/// Names a builder, after it.
const DAEMON: &str = "BUILDKIT_HOST";

/// Where a build runs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On the builder there.
    Address(String),
    /// On a builder that a server gives.
    Server,
    /// On one of its own.
    Here,
}

impl Place {
    /// Chooses; `variable` gives what is not empty of the environment.
    pub(super) fn of(args: &BuildArgs, variable: impl Fn(&str) -> Option<String>) -> Self {
        if speaks_of_server(&args.server) {
            return Self::Server;
        }
        if let Some(address) = args.builder.address.clone().or_else(|| variable(BUILDER)) {
            return Self::Address(address);
        }
        if variable(SERVER).is_some() {
            return Self::Server;
        }
        variable(DAEMON).map_or(Self::Here, Self::Address)
    }
}

fn speaks_of_server(choice: &ServerChoice) -> bool {
    choice.server.is_some() || choice.project.is_some() || choice.saves()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(args: &BuildArgs, variables: &[&str]) -> Place {
        Place::of(args, |name| variables.contains(&name).then(|| name.to_owned()))
    }

    #[test]
    fn the_command_goes_before_its_environment() {
        let all = [BUILDER, SERVER, DAEMON];
        let mut args = BuildArgs::default();
        assert_eq!(place(&args, &[]), Place::Here);
        assert_eq!(place(&args, &all), Place::Address(BUILDER.into()));
        assert_eq!(place(&args, &all[1..]), Place::Server);
        assert_eq!(place(&args, &all[2..]), Place::Address(DAEMON.into()));
        args.builder.address = Some("unix:///x".into());
        assert_eq!(place(&args, &all), Place::Address("unix:///x".into()));
    }

    #[test]
    fn any_flag_of_a_server_means_one() {
        let none = ServerChoice::default();
        for choice in [
            ServerChoice { server: Some("http://h".into()), ..none.clone() },
            ServerChoice { project: Some("p".into()), ..none.clone() },
            ServerChoice { save_tag: vec!["x".into()], ..none.clone() },
            ServerChoice { save: true, ..none },
        ] {
            let args = BuildArgs { server: choice, ..BuildArgs::default() };
            assert_eq!(place(&args, &[BUILDER]), Place::Server, "{args:?}");
        }
    }
}
