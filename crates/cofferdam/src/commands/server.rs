//! `cofferdam server` and `cofferdam organization`: the control plane, and what only its operator may do.

mod arguments;

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use cofferdam_server::{FirstToken, Options};

pub(crate) use arguments::{DataArgs, OrganizationArgs, OrganizationCommand, ServerArgs};

/// The configuration that is read when no other is named; it need not exist.
pub(crate) const CONFIG: &str = "/etc/cofferdam/server.toml";

/// How long reading and removing files in the background may go on once a server has stopped; the next start takes it up again.
const LEFT_TO_DO: Duration = Duration::from_secs(1);

/// Gives what is made the modes that were meant: builders run with other ids and pass through to their stores.
pub(crate) fn make_files_as_meant() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// Serves until told to stop.
pub(crate) fn run(args: ServerArgs) -> anyhow::Result<ExitCode> {
    make_files_as_meant();
    cofferdam_server::bound_memory();
    crate::logging::start(args.log_level, args.log_format);
    super::builder::install_cryptography();
    let config = args.configuration()?;
    let secure = config.tls.is_some();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let options = Options {
        config,
        program: PathBuf::from("/proc/self/exe"),
        ready: Box::new(move |address, first| announce(address, secure, first)),
    };
    let served = runtime.block_on(cofferdam_server::run(options));
    runtime.shutdown_timeout(LEFT_TO_DO);
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Says on standard output where the server is; and, once ever, the first organization's token.
fn announce(address: SocketAddr, secure: bool, first: Option<FirstToken>) {
    let scheme = if secure { "https" } else { "http" };
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; the server serves all the same.
    if let Some(FirstToken { organization, secret }) = first {
        writeln!(
            out,
            "organization {organization} was created. Its token, shown this once:\n{secret}"
        )
        .ok();
    }
    writeln!(out, "cofferdam server listens on {scheme}://{address}").ok();
    out.flush().ok();
    cofferdam_server::notify(&format!("READY=1\nSTATUS=listens on {scheme}://{address}"));
}

/// Makes a further organization.
pub(crate) fn organization(args: OrganizationArgs) -> anyhow::Result<ExitCode> {
    make_files_as_meant();
    let OrganizationCommand::Create { name, data } = args.command;
    let data_dir = data.directory()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = runtime
        .block_on(cofferdam_server::create_organization(&data_dir, &name))
        .with_context(|| format!("create organization {name:?}"))?;
    println!(
        "organization {} was created. Its token, shown this once:\n{}",
        first.organization, first.secret
    );
    Ok(ExitCode::SUCCESS)
}
