//! What the build may ask this side for: exactly what the arguments name, and registry credentials.

use anyhow::Context;
use cofferdam_apiclient::RegistryLogin;
use cofferdam_client::options::{parse_secret, parse_ssh};
use cofferdam_session::{
    AgentSource, Credentials, DockerConfig, FileTarget, OutputTarget, SecretStore, Services,
};

use super::arguments::InputArgs;
use super::load::Loader;
use super::outputs::{Outputs, Target, layout};

/// Secrets, agents and credentials.
pub(super) fn offers(inputs: &InputArgs) -> anyhow::Result<Services> {
    let mut services = Services::new();
    if !inputs.secret.is_empty() {
        let mut store = SecretStore::new();
        for text in &inputs.secret {
            let secret = parse_secret(text)?;
            store.add(secret.id, secret.source)?;
        }
        services = services.secrets(store);
    }
    for text in &inputs.ssh {
        let agent = parse_ssh(text)?;
        let source = match &agent.socket {
            Some(path) => AgentSource::socket(path),
            None => AgentSource::from_environment(),
        };
        services =
            services.agent(&agent.id, source.with_context(|| format!("--ssh {}", agent.id))?);
    }
    Ok(services.credentials(credentials(&[])?))
}

/// The user's credentials for registries, and those that a server gave for this build.
pub(super) fn credentials(logins: &[RegistryLogin]) -> anyhow::Result<DockerConfig> {
    let own = DockerConfig::from_environment().context("read docker's credentials")?;
    Ok(logins.iter().fold(own, |config, login| {
        let credentials =
            Credentials { username: login.user.clone(), secret: login.password.clone() };
        config.with(&login.host, credentials)
    }))
}

/// The places outputs arrive at, and the program that takes an image if one does.
pub(super) async fn targets(
    outputs: &Outputs,
    mut services: Services,
) -> anyhow::Result<(Services, Option<Loader>)> {
    let mut loader = None;
    for (number, (exporter, target)) in outputs.0.iter().enumerate() {
        let target = match target {
            Target::None => continue,
            Target::Layout(path) => {
                services = layout(exporter, path).offer(number, services)?;
                continue;
            }
            Target::Directory { path, mirror } => {
                OutputTarget::Directory { path: path.clone(), mirror: *mirror }
            }
            Target::File(path) => OutputTarget::File(FileTarget::Path(path.clone())),
            Target::Stdout => OutputTarget::File(FileTarget::writer(tokio::io::stdout())),
            Target::Load => {
                let (started, input) = Loader::start().await?;
                loader = Some(started);
                OutputTarget::File(FileTarget::writer(input))
            }
        };
        services = services.output(number, target);
    }
    Ok((services, loader))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_missing_is_said_before_the_build_starts() {
        let inputs = |secret: &str, ssh: &str| {
            let list = |text: &str| if text.is_empty() { vec![] } else { vec![text.to_owned()] };
            InputArgs { secret: list(secret), ssh: list(ssh), ..InputArgs::default() }
        };
        for (secret, ssh) in
            [("id=x,src=/no/such/file", ""), ("src=x", ""), ("", "id=/no/such/socket"), ("", "=x")]
        {
            assert!(offers(&inputs(secret, ssh)).is_err(), "{secret} {ssh}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        offers(&inputs(&format!("id=x,src={}", file.path().display()), "")).unwrap();
    }
}
