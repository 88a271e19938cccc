//! An object store that speaks S3, on a loopback port of its own: `moto`, which the clients of AWS are tested with.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::http::request;
use crate::places::test_client;
use crate::process::Process;

/// A Python program takes a second to start; on a busy machine several.
const PATIENCE: Duration = Duration::from_secs(30);
/// The bucket that is there.
const NAME: &str = "caches";
/// What opens it.
pub const KEY: &str = "AKIATESTTESTTESTTEST";
/// The secret of [`KEY`].
pub const SECRET: &str = "wJalrXUtnFEMI-not-to-be-seen-anywhere";

/// A running object store with one bucket.
#[derive(Debug)]
pub struct Bucket {
    endpoint: String,
    _process: Process,
}

impl Bucket {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(test_client("python"));
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]).stdin(Stdio::null());
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let process = Process::start(command);
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("Running on ") {
                    sender.send(address.trim().to_owned()).ok();
                }
            }
        });
        let endpoint = receiver.recv_timeout(PATIENCE).expect("the object store does not start");
        let made = request("PUT", &format!("{endpoint}/{NAME}"), &[], b"");
        assert_eq!(made.status, 200);
        Self { endpoint, _process: process }
    }

    /// Attributes of a cache in it, for `--cache-to` and `--cache-from`.
    #[must_use]
    pub fn cache(&self, name: &str) -> String {
        let endpoint = &self.endpoint;
        format!(
            "type=s3,bucket={NAME},region=us-east-1,name={name},endpoint_url={endpoint},use_path_style=true,\
             access_key_id={KEY},secret_access_key={SECRET}"
        )
    }

    /// Names of what is stored.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let listed = request("GET", &format!("{}/{NAME}?list-type=2", self.endpoint), &[], b"");
        let text = String::from_utf8_lossy(&listed.body).into_owned();
        let keys = text.split("<Key>").skip(1);
        keys.filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned())).collect()
    }
}
