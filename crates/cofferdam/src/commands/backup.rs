//! `cofferdam backup`: a server's data, saved while the server runs, looked through, and put back.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use cofferdam_server::backup::{self, Summary};

use crate::commands::server::{DataArgs, make_files_as_meant};
use crate::terminal::{bytes, note, print};

/// Make, check and restore backups of a server's data, on its machine
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    command: BackupCommand,
}

/// What can be done with backups.
#[derive(Debug, Subcommand)]
enum BackupCommand {
    /// Make a backup; the server may be running
    Create {
        /// The backup: a directory that is empty or not there yet
        target: PathBuf,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Read all of a backup and say whether it is whole
    Verify {
        /// The backup
        backup: PathBuf,
    },
    /// Restore a backup into a data directory that is empty or not there yet
    Restore {
        /// The backup
        backup: PathBuf,
        #[command(flatten)]
        data: DataArgs,
    },
}

/// Does it; fails when something is missing, also if all the rest was saved.
pub(crate) fn run(args: BackupArgs) -> anyhow::Result<ExitCode> {
    let (done, summary) = match args.command {
        BackupCommand::Create { target, data } => {
            let data_dir = data.directory()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let made = runtime.block_on(backup::create(&data_dir, &target));
            ("made", made.with_context(|| format!("back up {}", data_dir.display()))?)
        }
        BackupCommand::Verify { backup } => {
            let read = backup::verify(&backup);
            ("sound", read.with_context(|| format!("verify {}", backup.display()))?)
        }
        BackupCommand::Restore { backup, data } => {
            make_files_as_meant();
            let restored = backup::restore(&backup, &data.directory()?);
            ("restored", restored.with_context(|| format!("restore {}", backup.display()))?)
        }
    };
    tell(done, &summary)
}

fn tell(done: &str, summary: &Summary) -> anyhow::Result<ExitCode> {
    let Summary { program, made_at, files, bytes: size, incomplete } = summary;
    print(&format!(
        "backup {done}: {files} files, {}, of {} by {}\n",
        bytes(*size),
        cofferdam_client::text::single_line(made_at),
        cofferdam_client::text::single_line(program)
    ))?;
    if incomplete.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    note("not in it, because it was lost or damaged before:");
    for line in incomplete {
        note(line);
    }
    Ok(ExitCode::FAILURE)
}
