//! Arguments of `cofferdam builder`, by the names BuildKit's daemon has for them.

#![allow(rustdoc::broken_intra_doc_links, reason = "help texts are plain text")]

use std::path::PathBuf;

use clap::Args;

use super::ignored::Ignored;

/// What was asked for; nothing is read or checked yet that needs more than the text itself.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct BuilderArgs {
    /// Address to listen on, `unix://PATH` or `tcp://HOST:PORT`; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub(crate) addr: Vec<String>,

    /// Unix socket to serve a server on instead, whose connections say which build they belong to
    #[arg(long, value_name = "PATH", conflicts_with = "addr")]
    pub(crate) server_socket: Option<PathBuf>,

    /// Directory for the builder's state
    #[arg(long, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    /// Configuration file, with the keys of buildkitd.toml [default: /etc/cofferdam/builder.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Wall around the builds: namespaces, gvisor or vm; refused when this machine cannot have it
    #[arg(long, value_name = "LEVEL")]
    pub(crate) isolation: Option<cofferdam_sandbox::Isolation>,

    /// Registry or other host that the builder itself may reach although it is not public, `HOST` or `HOST:PORT`; steps may not.
    /// May be repeated
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        value_delimiter = ',',
        env = "COFFERDAM_ALLOW_REGISTRY"
    )]
    pub(crate) allow_registry: Vec<String>,

    /// Group that may use the unix sockets, by name or number
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,

    /// What builds may ask for: network.host, security.insecure; may be repeated
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub(crate) allow_insecure_entitlement: Vec<String>,

    /// Most steps that run at once; 0 has no limit
    #[arg(long, value_name = "N")]
    pub(crate) oci_max_parallelism: Option<Parallelism>,

    /// Label shown for this worker; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = key_value)]
    pub(crate) oci_worker_labels: Vec<(String, String)>,

    /// Platform this worker builds for; may be repeated
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub(crate) oci_worker_platform: Vec<String>,

    /// Collect garbage
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub(crate) oci_worker_gc: Option<bool>,

    /// Space in MB, or a size such as 10GB or 10%, that garbage collection leaves alone
    #[arg(long, value_name = "SIZE")]
    pub(crate) oci_worker_gc_keepstorage: Option<String>,

    /// Network of steps: auto or host
    #[arg(long, value_name = "MODE")]
    pub(crate) oci_worker_net: Option<String>,

    /// Know of no devices, whatever is declared
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub(crate) cdi_disabled: Option<bool>,

    /// Directory with declarations of devices (Container Device Interface) [default: /etc/cdi, /var/run/cdi]; not at
    /// level vm; may be repeated
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    pub(crate) cdi_spec_dir: Vec<PathBuf>,

    /// Directory of JSON files that are added to the provenance of builds [default: /etc/cofferdam/provenance.d]
    #[arg(long, value_name = "DIR")]
    pub(crate) provenance_env_dir: Option<PathBuf>,

    /// Address to say on, over HTTP, what the builder is doing: HOST:PORT, tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR", env = "BUILDKITD_DEBUGADDR")]
    pub(crate) debugaddr: Option<String>,

    /// Certificate of the server
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscert: Option<PathBuf>,

    /// Key of the server
    #[arg(long, value_name = "FILE")]
    pub(crate) tlskey: Option<PathBuf>,

    /// Authority of clients' certificates
    #[arg(long, value_name = "FILE")]
    pub(crate) tlscacert: Option<PathBuf>,

    /// Log more
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub(crate) debug: Option<bool>,

    /// Log everything
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub(crate) trace: Option<bool>,

    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log_level: Option<String>,

    /// text or json
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,

    /// End when standard input does: whoever started this process is gone then.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,

    #[command(flatten)]
    pub(crate) ignored: Ignored,
}

/// A number of steps, or its older spelling `num-cpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parallelism(pub(crate) usize);

impl std::str::FromStr for Parallelism {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "num-cpu" {
            return Ok(Self(
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ));
        }
        text.parse().map(Self).map_err(|_| "use a number or num-cpu".to_owned())
    }
}

/// Boolean values as Go programs accept them.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("use true or false".to_owned()),
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("use KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Whole {
        #[command(flatten)]
        args: BuilderArgs,
    }

    fn parse(text: &str) -> Result<BuilderArgs, clap::Error> {
        let words = std::iter::once("builder").chain(text.split_whitespace());
        Whole::try_parse_from(words).map(|whole| whole.args)
    }

    #[test]
    fn the_arguments_of_buildkits_own_tests_are_accepted() {
        let args = parse(
            "--oci-worker=true --containerd-worker=false --oci-worker-gc=false \
             --oci-worker-labels=org.mobyproject.buildkit.worker.sandbox=true --oci-worker-snapshotter=native \
             --config=/tmp/x/buildkitd.toml --root /tmp/x --addr unix:///tmp/x/buildkitd.sock --debug",
        )
        .unwrap();
        assert_eq!(args.oci_worker_gc, Some(false));
        assert_eq!(
            args.oci_worker_labels,
            [("org.mobyproject.buildkit.worker.sandbox".to_owned(), "true".to_owned())]
        );
        assert_eq!(args.root, Some("/tmp/x".into()));
        assert_eq!(args.addr, ["unix:///tmp/x/buildkitd.sock"]);
        assert_eq!(args.debug, Some(true));
        assert_eq!(args.ignored.0, ["containerd-worker", "oci-worker", "oci-worker-snapshotter"]);
    }

    #[test]
    fn repeated_flags_add_up() {
        let args = parse(
            "--addr tcp://127.0.0.1:1 --addr unix:///a --allow-insecure-entitlement network.host \
             --allow-insecure-entitlement=security.insecure --oci-worker-labels a=b,c=d=e --oci-max-parallelism 4",
        )
        .unwrap();
        assert_eq!(args.addr.len(), 2);
        assert_eq!(args.allow_insecure_entitlement, ["network.host", "security.insecure"]);
        assert_eq!(args.oci_worker_labels[1], ("c".to_owned(), "d=e".to_owned()));
        assert_eq!(args.oci_max_parallelism, Some(Parallelism(4)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "--debug=maybe",
            "--oci-worker-labels novalue",
            "--oci-max-parallelism many",
            "--no-such-flag",
            "word",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(!parse("--debug=0").unwrap().debug.unwrap());
    }
}
