//! `cofferdam check`: whether a server's data is whole.

use std::process::ExitCode;

use clap::Args;
use cofferdam_server::Checked;
use serde_json::json;

use crate::commands::server::DataArgs;
use crate::terminal::{print, print_json};

/// Look through a server's data for what is damaged or lost, on its machine
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    data: DataArgs,
    /// JSON instead of sentences
    #[arg(long)]
    json: bool,
}

/// Reads everything; fails when something is wrong.
pub(crate) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let data_dir = args.data.directory()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let checked = runtime.block_on(cofferdam_server::check(&data_dir))?;
    let Checked { layout, projects, running, problems } = &checked;
    let sound = problems.is_empty();
    if args.json {
        print_json(&json!({
            "sound": sound,
            "layout": layout,
            "projects": projects,
            "runningBuilds": running,
            "problems": problems,
        }))?;
    } else {
        for problem in problems {
            print(&format!("{}\n", cofferdam_client::text::single_line(problem)))?;
        }
        let verdict = match problems.len() {
            0 => "nothing is wrong".to_owned(),
            1 => "1 problem".to_owned(),
            many => format!("{many} problems"),
        };
        print(&format!(
            "layout {layout}, {projects} projects, {running} running builds: {verdict}\n"
        ))?;
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
