//! `cofferdam server`: the real program on a loopback port of its own, with data of its own, that must leave nothing behind.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::build::Build;
use crate::certificates::certificates;
use crate::client::Client;
use crate::context::Context;
use crate::http::{Response, request};
use crate::leftovers;
use crate::places::{hiding, program};
use crate::process::Process;

/// How long a server may take to answer, on a machine that runs many at once.
const START: Duration = Duration::from_secs(30);

/// How long it may take to end when told to.
const STOP: Duration = Duration::from_secs(40);

/// What a server's own organization token begins with.
const TOKEN: &str = "cfd_org_";

/// What a server keeps: its data, log and certificates. It can be handed from one server to the next.
#[derive(Debug)]
pub struct Data {
    dir: TempDir,
    /// The organization's token, printed by the first start.
    token: OnceLock<String>,
}

impl Data {
    /// A new one.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let dir = tempfile::Builder::new().prefix("cofferdam-").tempdir().unwrap();
        // Builders of projects have to pass through.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711))
            .unwrap();
        Arc::new(Self { dir, token: OnceLock::new() })
    }

    /// The server's data directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// A file beside the data directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    data: Arc<Data>,
    process: Process,
    port: u16,
    ended: bool,
}

/// A project with a token of its own.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its id.
    pub id: String,
    /// A project token.
    pub token: String,
}

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status of HTTP.
    pub status: u16,
    /// The message, or the error.
    pub body: Value,
}

impl Answer {
    /// The message.
    ///
    /// # Panics
    /// When it is an error.
    #[must_use]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// The error's code.
    ///
    /// # Panics
    /// When it is no error.
    #[must_use]
    pub fn code(&self) -> &str {
        assert_ne!(self.status, 200, "{}", self.body);
        self.body["code"].as_str().unwrap_or_else(|| panic!("no code: {}", self.body))
    }
}

impl Server {
    /// Starts one with everything at its default.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(Data::new(), "")
    }

    /// Starts one that speaks TLS too, with a certificate of an authority whose own is at [`Server::authority`].
    #[must_use]
    pub fn secure() -> Self {
        let data = Data::new();
        certificates(data.dir.path());
        let config = format!(
            "[tls]\ncert = \"{}\"\nkey = \"{}\"\n",
            data.file("server.pem").display(),
            data.file("server.key").display()
        );
        Self::start_in(data, &config)
    }

    /// Starts one with the data of an earlier one, and with this configuration.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_in(data: Arc<Data>, config: &str) -> Self {
        Self::start_without(data, config, &[])
    }

    /// Starts one that finds nothing of use at these paths, and no way to those who do. Needs root.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_without(data: Arc<Data>, config: &str, hidden: &[&str]) -> Self {
        let command = if hidden.is_empty() { Command::new(program()) } else { hiding(hidden) };
        Self::start_as(data, config, command)
    }

    /// Starts one by this command, which runs the program with the arguments that are added to it.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_as(data: Arc<Data>, config: &str, mut command: Command) -> Self {
        let file = data.file("server.toml");
        // The registries of tests are on this machine.
        let vouched = "[builder.egress]\nvouched = [\"127.0.0.1\"]\n";
        let vouched = if config.contains("[builder.egress]") { "" } else { vouched };
        fs::write(&file, format!("{config}{vouched}")).unwrap();
        // The messages of an earlier start go; its token stays good.
        if let Some(token) = fs::read_to_string(data.log()).ok().and_then(|log| word(&log, TOKEN)) {
            data.token.set(token).ok();
        }
        let log = File::create(data.log()).unwrap();
        command
            .args(["server", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path())
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let mut server = Self { process: Process::start(command), data, port: 0, ended: false };
        server.wait_until_it_answers();
        server
    }

    fn wait_until_it_answers(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < START {
            if let Some(port) = port(&self.log()) {
                self.port = port;
                return;
            }
            if let Some(status) = self.process.wait(Duration::from_millis(10)) {
                self.ended = true;
                panic!("the server ended with {status}:\n{}", self.log());
            }
        }
        panic!("the server does not answer:\n{}", self.log());
    }

    /// `127.0.0.1:port`, as it stands in references of images.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its URL without TLS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The certificate of the authority of a [`Server::secure`].
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.data.file("ca.pem")
    }

    /// The token of its organization, printed when its data was made.
    ///
    /// # Panics
    /// When none was printed.
    #[must_use]
    pub fn token(&self) -> &str {
        self.data.token.get_or_init(|| {
            word(&self.log(), TOKEN)
                .unwrap_or_else(|| panic!("no token was printed:\n{}", self.log()))
        })
    }

    /// Its messages so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.log()).unwrap_or_default()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its data, to be kept when it goes.
    #[must_use]
    pub fn data(&self) -> Arc<Data> {
        Arc::clone(&self.data)
    }

    /// Calls a method such as `depot.core.v1.ProjectService/ListProjects` with the organization's token.
    #[must_use]
    pub fn call(&self, method: &str, message: &Value) -> Answer {
        self.call_as(self.token(), method, message)
    }

    /// Calls a method with another token.
    #[must_use]
    pub fn call_as(&self, token: &str, method: &str, message: &Value) -> Answer {
        let authorization = format!("Bearer {token}");
        let headers = [("Content-Type", "application/json"), ("Authorization", &*authorization)];
        let url = format!("{}/{method}", self.url());
        let response = request("POST", &url, &headers, message.to_string().as_bytes());
        let body = serde_json::from_slice(&response.body).unwrap_or_else(|error| {
            panic!("{method}: {error}: {:?}", String::from_utf8_lossy(&response.body))
        });
        Answer { status: response.status, body }
    }

    /// Asks for a page or anything else that is no call.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        request("GET", &format!("{}{path}", self.url()), &[], b"")
    }

    /// Makes a project and a token for it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn project(&self, name: &str) -> Project {
        let made = self
            .call(
                "depot.core.v1.ProjectService/CreateProject",
                &json!({ "name": name, "regionId": "us-east-1" }),
            )
            .ok();
        let id = made["project"]["projectId"].as_str().unwrap().to_owned();
        let token = self
            .call(
                "depot.core.v1.ProjectService/CreateToken",
                &json!({ "projectId": id, "description": "of a test" }),
            )
            .ok();
        Project { id, token: token["secret"].as_str().unwrap().to_owned() }
    }

    /// Depot's command line, as somebody with the organization's token.
    #[must_use]
    pub fn depot(&self) -> Client {
        Client::depot(&self.url()).token(self.token())
    }

    /// `depot build` of a context in a project, with the project's token. The context comes last: options follow the call.
    #[must_use]
    pub fn depot_build(&self, project: &Project, context: &Context) -> Client {
        Client::depot(&self.url())
            .token(&project.token)
            .args("build --progress plain --project")
            .arg(&project.id)
            .arg(context.path())
    }

    /// `cofferdam build --server`.
    #[must_use]
    pub fn build(&self, project: &Project, context: &Context) -> Build {
        Build::new(None, context.path().to_str().unwrap())
            .arg("--server")
            .arg(self.url())
            .arg("--project")
            .arg(&project.id)
            .env("COFFERDAM_TOKEN", &project.token)
    }

    /// Builds of a project, newest first: the first page.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    pub fn builds(&self, project: &Project) -> Vec<Value> {
        let listed = self
            .call("depot.core.v1.BuildService/ListBuilds", &json!({ "projectId": project.id }))
            .ok();
        listed["builds"].as_array().cloned().unwrap_or_default()
    }

    /// The newest build of a project.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn newest_build(&self, project: &Project) -> Value {
        self.builds(project).first().unwrap_or_else(|| panic!("no build of {}", project.id)).clone()
    }

    /// The id of the newest build of a project.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn newest_id(&self, project: &Project) -> String {
        self.newest_build(project)["buildId"].as_str().unwrap().to_owned()
    }

    /// Waits until a build has ended; gives it.
    ///
    /// # Panics
    /// When it takes longer than `patience`.
    #[must_use]
    pub fn ended(&self, build: &str, patience: Duration) -> Value {
        let begun = Instant::now();
        loop {
            let answer =
                self.call("depot.core.v1.BuildService/GetBuild", &json!({ "buildId": build })).ok();
            if answer["build"]["status"] != "STATUS_RUNNING" {
                return answer["build"].clone();
            }
            assert!(begun.elapsed() < patience, "still running: {answer}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Every step of a build.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    pub fn steps(&self, project: &Project, build: &str) -> Vec<Value> {
        let listed = self
            .call(
                "depot.build.v1.BuildService/GetBuildSteps",
                &json!({ "projectId": project.id, "buildId": build, "pageSize": 10_000 }),
            )
            .ok();
        listed["buildSteps"].as_array().cloned().unwrap_or_default()
    }

    /// The lines that a step of a build wrote.
    ///
    /// # Panics
    /// When they cannot be listed.
    #[must_use]
    pub fn logs(&self, project: &Project, build: &str, digest: &str) -> Vec<String> {
        let listed = self
            .call(
                "depot.build.v1.BuildService/GetBuildStepLogs",
                &json!({ "projectId": project.id, "buildId": build, "buildStepDigest": digest }),
            )
            .ok();
        let lines = listed["logs"].as_array().cloned().unwrap_or_default();
        lines.iter().map(|line| line["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Kills it, and with it everything, without a chance to clean up. Gives its data.
    #[must_use]
    pub fn kill(mut self) -> Arc<Data> {
        self.ended = true;
        self.process.kill();
        self.data()
    }

    /// Ends it in good order and looks for what it left.
    ///
    /// # Panics
    /// When it does not end by itself or leaves something.
    #[must_use]
    pub fn stop(mut self) -> Arc<Data> {
        self.ended = true;
        self.end().unwrap_or_else(|trouble| panic!("{trouble}\n{}", self.log()));
        self.data()
    }

    fn end(&self) -> Result<(), String> {
        let tree = leftovers::tree(self.pid());
        self.process.signal(Signal::TERM);
        let status = self.process.wait(STOP).ok_or("the server does not end")?;
        if !status.success() {
            return Err(format!("the server ended with {status}"));
        }
        for _ in 0..200 {
            if leftovers::survivors(&tree).is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let left = leftovers::survivors(&tree);
        if !left.is_empty() {
            return Err(format!("processes left: {left:?}"));
        }
        let below = leftovers::mounts(&self.data.path());
        if below.is_empty() { Ok(()) } else { Err(format!("mounts left: {below:?}")) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // A failed test may have left builds: two signals do not wait for them.
        if std::thread::panicking() {
            self.process.signal(Signal::TERM);
            std::thread::sleep(Duration::from_millis(200));
        }
        let ended = self.end();
        if std::thread::panicking() {
            eprintln!("messages of the server:\n{}", self.log());
        } else if let Err(trouble) = ended {
            panic!("{trouble}; its messages:\n{}", self.log());
        }
    }
}

/// The port in the first `127.0.0.1:port` of a text that is not port 0.
fn port(text: &str) -> Option<u16> {
    text.split("127.0.0.1:").skip(1).find_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        rest[..end].parse().ok().filter(|port| *port != 0)
    })
}

/// The first word of a text that begins with `start`.
fn word(text: &str, start: &str) -> Option<String> {
    let rest = &text[text.find(start)?..];
    let end = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .unwrap_or(rest.len());
    Some(rest[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read() {
        let text =
            "listening on http://127.0.0.1:8123\nToken: cfd_org_aB-3_x (shown once)\n127.0.0.1:1\n";
        assert_eq!(port(text), Some(8123));
        assert_eq!(port("127.0.0.1:0\n"), None);
        assert_eq!(word(text, TOKEN).as_deref(), Some("cfd_org_aB-3_x"));
    }
}
