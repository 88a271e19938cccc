//! The typed instructions of a Dockerfile.
//!
//! Plain data, one type per instruction of the
//! [Dockerfile reference](https://docs.docker.com/reference/dockerfile/). Values are as
//! written: variables are still unexpanded (see [`Instruction::expand`]). Nothing here may
//! look at the outside world.

use std::time::Duration;

use crate::instructions::mount::Mount;
use crate::lines::Lines;

/// A whole Dockerfile.
#[derive(Debug, Clone, PartialEq)]
pub struct Dockerfile {
    /// The escape character: `\` or a backtick. Variable expansion needs it.
    pub escape: char,
    /// `ARG` instructions before the first `FROM`; every `command` is [`Command::Arg`].
    pub global_args: Vec<Instruction>,
    /// The build stages in order, never empty.
    pub stages: Vec<Stage>,
}

/// One build stage: a `FROM` and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// Name given with `AS`, in lower case.
    pub name: Option<String>,
    /// Image, stage or `scratch` to start from, unexpanded.
    pub base: String,
    /// Value of `--platform`, unexpanded; empty when absent.
    pub platform: String,
    /// The `FROM` keyword as written.
    pub keyword: String,
    /// Text of the `FROM` instruction, continuation lines joined.
    pub text: String,
    /// Lines of the `FROM` instruction.
    pub lines: Lines,
    /// Comment lines right above, without `#` and surrounding space.
    pub comments: Vec<String>,
    /// Description from a comment of the form `# <name> <description>`; empty when absent.
    pub description: String,
    /// Instructions of the stage in order.
    pub instructions: Vec<Instruction>,
}

/// One instruction with its place in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Instruction {
    /// Keyword as written, so its case can be checked.
    pub keyword: String,
    /// Text of the instruction, continuation lines joined, heredoc bodies left out.
    pub text: String,
    /// Lines it covers, heredoc bodies included.
    pub lines: Lines,
    /// Comment lines right above, without `#` and surrounding space.
    pub comments: Vec<String>,
    /// What it says.
    pub command: Command,
}

/// What an instruction says.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Vec<ArgPair>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<KeyValue>),
    /// `EXPOSE`: port specifications in sorted order, unexpanded.
    Expose(Vec<String>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<KeyValue>),
    /// `MAINTAINER`
    Maintainer(String),
    /// `ONBUILD`: the text of the trigger, heredoc bodies included; read it with
    /// [`parse_trigger`](crate::parse_trigger) in the child build.
    Onbuild(String),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<String>),
    /// `STOPSIGNAL`
    Stopsignal(String),
    /// `USER`
    User(String),
    /// `VOLUME`
    Volume(Vec<String>),
    /// `WORKDIR`
    Workdir(String),
}

/// `name=value` of `ENV` and `LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// Name.
    pub key: String,
    /// Value with its quotes.
    pub value: String,
    /// Written in the legacy form `name value`.
    pub legacy: bool,
}

/// `name` or `name=default` of `ARG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgPair {
    /// Name.
    pub key: String,
    /// Default with its quotes.
    pub value: Option<String>,
    /// Description from a comment of the form `# <name> <description>`; empty when absent.
    pub description: String,
}

/// What `RUN`, `CMD` and `ENTRYPOINT` run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// Exec form: the arguments. Shell form: one element with the whole text, or none when
    /// nothing was given.
    pub words: Vec<String>,
    /// Shell form: the shell of the stage goes in front.
    pub shell: bool,
    /// Heredoc bodies in order of appearance.
    pub files: Vec<InlineFile>,
}

/// A heredoc body belonging to a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// The heredoc delimiter.
    pub name: String,
    /// Body as written; every line ends as in the file.
    pub data: String,
    /// `<<-`: leading tabs are to be removed (see [`strip_tabs`](crate::strip_tabs)).
    pub strip_tabs: bool,
}

/// `RUN`
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What to run.
    pub command: CommandLine,
    /// Values of `--mount` as written. [`Instruction::expand`] reads them into `mounts`.
    pub mount_flags: Vec<String>,
    /// The mounts. Before expansion only `from` is known.
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Network,
    /// `--security`
    pub security: Security,
    /// `--device`
    pub devices: Vec<Device>,
    /// Names of all flags given, in order of first use.
    pub flags_used: Vec<String>,
}

/// `RUN --network`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The network of the build.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The builder's own network.
    Host,
}

/// `RUN --security`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Ordinary confinement.
    #[default]
    Sandbox,
    /// Elevated rights, subject to an entitlement.
    Insecure,
}

/// `RUN --device`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Device {
    /// Name of the device, possibly empty.
    pub name: String,
    /// A missing device is an error.
    pub required: bool,
}

/// Sources and destination of `COPY` and `ADD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sources {
    /// Paths or addresses.
    pub paths: Vec<String>,
    /// Inline files from heredocs.
    pub inline: Vec<InlineSource>,
    /// Destination.
    pub destination: String,
}

/// A heredoc used as a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineSource {
    /// File name: the heredoc delimiter.
    pub name: String,
    /// Content, leading tabs already removed for `<<-`.
    pub data: String,
    /// Variables in the content are expanded (the delimiter is not quoted).
    pub expand: bool,
}

/// `COPY`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Copy {
    /// Sources and destination.
    pub sources: Sources,
    /// `--from`; empty when absent.
    pub from: String,
    /// `--chown`; empty when absent.
    pub chown: String,
    /// `--chmod`; empty when absent.
    pub chmod: String,
    /// `--link`
    pub link: bool,
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
}

/// `ADD`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Add {
    /// Sources and destination.
    pub sources: Sources,
    /// `--chown`; empty when absent.
    pub chown: String,
    /// `--chmod`; empty when absent.
    pub chmod: String,
    /// `--link`
    pub link: bool,
    /// `--exclude`
    pub exclude: Vec<String>,
    /// `--keep-git-dir`, when given.
    pub keep_git_dir: Option<bool>,
    /// `--checksum`; empty when absent.
    pub checksum: String,
    /// `--unpack`, when given.
    pub unpack: Option<bool>,
}

/// `HEALTHCHECK`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Healthcheck {
    /// First element is `NONE`, `CMD` or `CMD-SHELL`; the rest are the arguments.
    pub test: Vec<String>,
    /// `--interval`; zero inherits.
    pub interval: Duration,
    /// `--timeout`; zero inherits.
    pub timeout: Duration,
    /// `--start-period`; zero inherits.
    pub start_period: Duration,
    /// `--start-interval`; zero inherits.
    pub start_interval: Duration,
    /// `--retries`; zero inherits.
    pub retries: u32,
}
