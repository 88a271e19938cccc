//! `/cnb/lifecycle/launcher` of app images, and with other names, `/cnb/process/<type>`.

use std::process::ExitCode;

fn main() -> ExitCode {
    cofferdam_launcher::launch()
}
