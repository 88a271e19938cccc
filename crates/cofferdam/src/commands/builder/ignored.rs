//! Flags of BuildKit's daemon that mean nothing here. Scripts pass them; refusing them would only break those scripts.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// Name without dashes, and whether a value must follow. Without, `--flag` and `--flag=value` both are fine.
const FLAGS: &[(&str, bool)] = &[
    ("cni-pool-size", true),
    ("containerd-worker", false),
    ("containerd-worker-addr", true),
    ("containerd-worker-gc", false),
    ("containerd-worker-labels", true),
    ("containerd-worker-namespace", true),
    ("containerd-worker-net", true),
    ("containerd-worker-platform", true),
    ("containerd-worker-snapshotter", true),
    ("oci-cni-binary-dir", true),
    ("oci-cni-config-path", true),
    ("oci-cni-pool-size", true),
    ("oci-worker", false),
    ("oci-worker-apparmor-profile", true),
    ("oci-worker-binary", true),
    ("oci-worker-no-process-sandbox", false),
    ("oci-worker-proxy-snapshotter-path", true),
    ("oci-worker-rootless", false),
    ("oci-worker-selinux", false),
    ("oci-worker-snapshotter", true),
    ("otel-socket-path", true),
    ("proxy-network", false),
    ("rootless", false),
    ("save-cache-debug", false),
    ("sdnotify", false),
];

/// The flags of that kind that were given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ignored(pub(crate) Vec<&'static str>);

impl FromArgMatches for Ignored {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = FLAGS.iter().map(|(name, _)| *name).filter(|name| matches.contains_id(name));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Ignored {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(|(name, valued)| {
            let arg = Arg::new(*name).long(*name).hide(true).action(ArgAction::Append);
            if *valued {
                arg
            } else {
                arg.num_args(0..=1).require_equals(true).default_missing_value("true")
            }
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_without_duplicates() {
        assert!(FLAGS.is_sorted_by(|a, b| a.0 < b.0));
    }
}
