//! Devices that the operator declares by the Container Device Interface, and what they change in a step.
//!
//! A sandbox has no device of the host, and no directory of it: of a declaration's edits only variables are made. A declaration that
//! needs more is refused by name when a step asks for it; going on without what a device needs would be a surprise later. Who
//! declared a device, the operator or an administrator of the machine, is trusted with the environment of steps and with nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use cofferdam_wire::moby::buildkit::v1::types::CDIDevice as WireDevice;
use cofferdam_wire::pb;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use crate::failure::Failure;

/// Puts a device into a class that steps can ask for.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// Gives a device to every step that asks.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";
/// Longest message of the supervisor: all declarations together.
const MAX_MESSAGE: u32 = 16 << 20;

/// A declaration, as the supervisor read it from its file.
#[derive(Debug, Deserialize)]
struct Declaration {
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, Text>,
    #[serde(default)]
    devices: Vec<Declared>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Debug, Deserialize)]
struct Declared {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, Text>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

/// What a device changes in a step.
#[derive(Debug, Default, Deserialize)]
struct Edits {
    #[serde(default)]
    env: Vec<String>,
    /// Device nodes, mounts, hooks and whatever comes later.
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

/// A text that may have been written without quotes.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Text {
    Bool(bool),
    Number(i64),
    Words(String),
}

impl Text {
    fn into_text(self) -> String {
        match self {
            Self::Bool(on) => on.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Words(text) => text,
        }
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    /// `vendor.com/class=name`
    name: String,
    annotations: BTreeMap<String, String>,
    env: Vec<String>,
    /// Edits that no step is given.
    impossible: Vec<String>,
}

impl Device {
    fn kind(&self) -> &str {
        self.name.split('=').next().unwrap_or_default()
    }

    fn class(&self) -> Option<&str> {
        self.annotations.get(CLASS).map(String::as_str)
    }

    fn auto_allowed(&self) -> bool {
        self.annotations.get(AUTO_ALLOW).is_some_and(|value| {
            matches!(value.as_str(), "true" | "1" | "t" | "T" | "TRUE" | "True")
        })
    }
}

/// All devices there are now, by name.
#[derive(Debug, Default)]
pub(crate) struct Devices(RwLock<Arc<Vec<Device>>>);

impl Devices {
    fn list(&self) -> Arc<Vec<Device>> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the devices by those of a message. What cannot be understood is left out, and told.
    fn replace(&self, message: &[u8]) {
        let declarations: Vec<serde_json::Value> =
            serde_json::from_slice(message).unwrap_or_default();
        let mut devices = BTreeMap::new();
        for declaration in declarations {
            match serde_json::from_value::<Declaration>(declaration) {
                Ok(declaration) => {
                    let all = of_declaration(declaration);
                    devices.extend(all.into_iter().map(|device| (device.name.clone(), device)));
                }
                Err(error) => tracing::warn!(%error, "a declaration of devices is not understood"),
            }
        }
        let devices = Arc::new(devices.into_values().collect());
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = devices;
    }

    /// Follows what the supervisor says, until it ends.
    pub(crate) async fn follow(self: Arc<Self>, feed: std::os::fd::OwnedFd) {
        let feed = std::os::unix::net::UnixStream::from(feed);
        let feed = feed.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(feed));
        let Ok(mut feed) = feed else { return };
        while let Ok(length) = feed.read_u32_le().await {
            if length > MAX_MESSAGE {
                tracing::warn!(
                    length,
                    "the declarations of devices are too long: they stay as they are"
                );
                return;
            }
            // Grows with what comes, whatever was said to come.
            let mut message = Vec::new();
            let read = (&mut feed).take(length.into()).read_to_end(&mut message).await;
            if read.ok() != usize::try_from(length).ok() {
                return;
            }
            self.replace(&message);
        }
    }

    /// The devices as clients list them.
    pub(crate) fn to_wire(&self) -> Vec<WireDevice> {
        let wire = |device: &Device| WireDevice {
            Name: device.name.clone(),
            AutoAllow: device.auto_allowed(),
            Annotations: device.annotations.clone().into_iter().collect(),
            ..WireDevice::default()
        };
        self.list().iter().map(wire).collect()
    }

    /// Checks that a build that may have `granted` may have what a step asks for.
    pub(crate) fn check(&self, wanted: &[pb::CDIDevice], granted: &Granted) -> Result<(), Failure> {
        let all = self.list();
        for device in wanted {
            let found = find(&all, device)?;
            let allowed =
                |found: &&Device| found.auto_allowed() || granted.covers(&device.name, found);
            if let Some(refused) = found.iter().find(|found| !allowed(found)) {
                return Err(Failure::unknown(format!(
                    "device {:?} is requested by the build but not allowed",
                    refused.name
                )));
            }
        }
        Ok(())
    }

    /// The variables of the devices that a step asks for.
    pub(crate) fn variables(&self, wanted: &[pb::CDIDevice]) -> Result<Vec<String>, Failure> {
        let all = self.list();
        let mut seen = BTreeSet::new();
        let mut env = Vec::new();
        for device in wanted {
            for found in find(&all, device)? {
                if !found.impossible.is_empty() {
                    let needs = found.impossible.join(", ");
                    return Err(Failure::invalid(format!(
                        "device {:?} needs {needs}: a step is given variables and nothing else of a device",
                        found.name
                    )));
                }
                if seen.insert(&found.name) {
                    env.extend(found.env.iter().cloned());
                }
            }
        }
        Ok(env)
    }
}

/// The devices that a build was granted by its client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted {
    all: bool,
    names: BTreeSet<String>,
}

impl Granted {
    /// Adds what stands behind `device=` in an entitlement; nothing stands for every device.
    pub(crate) fn add(&mut self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            self.all = true;
            return Ok(());
        }
        match text.split_once(',') {
            None => {
                self.names.insert(text.to_owned());
                Ok(())
            }
            Some((_, rest)) => Err(Failure::invalid(format!("invalid device config {rest:?}"))),
        }
    }

    fn covers(&self, asked: &str, device: &Device) -> bool {
        let names = [asked, &device.name, device.kind()];
        self.all
            || names.into_iter().chain(device.class()).any(|name| self.names.contains(name))
            || self.names.contains(&format!("{}=*", device.kind()))
    }
}

fn of_declaration(declaration: Declaration) -> Vec<Device> {
    let text = |list: BTreeMap<String, Text>| {
        list.into_iter().map(|(key, value)| (key, value.into_text())).collect::<BTreeMap<_, _>>()
    };
    let common = text(declaration.annotations);
    let shared = declaration.edits;
    let kind = declaration.kind;
    let all = declaration.devices.into_iter().map(|declared| {
        let mut annotations = common.clone();
        annotations.extend(text(declared.annotations));
        let mut env = shared.env.clone();
        env.extend(declared.edits.env);
        let impossible = shared.others.iter().chain(&declared.edits.others);
        let impossible: BTreeSet<String> =
            impossible.filter(|(_, value)| !is_empty(value)).map(|(key, _)| key.clone()).collect();
        Device {
            name: format!("{kind}={}", declared.name),
            annotations,
            env,
            impossible: impossible.into_iter().collect(),
        }
    });
    all.collect()
}

fn is_empty(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Array(list) => list.is_empty(),
        serde_json::Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The devices that a step means: one by its name, the first of a kind, all of a kind (`=*`), or all of a class.
fn find<'a>(all: &'a [Device], wanted: &pb::CDIDevice) -> Result<Vec<&'a Device>, Failure> {
    let (kind, name) = wanted.name.split_once('=').unwrap_or((&wanted.name, ""));
    let of_kind = || all.iter().filter(|device| device.kind() == kind);
    let mut found: Vec<&Device> = match name {
        "" => of_kind().take(1).collect(),
        "*" => of_kind().collect(),
        _ => all.iter().filter(|device| device.name == wanted.name).collect(),
    };
    if found.is_empty() {
        found = all.iter().filter(|device| device.class() == Some(wanted.name.as_str())).collect();
    }
    if found.is_empty() && !wanted.optional {
        return Err(Failure::unknown(format!(
            "required device {:?} is not registered",
            wanted.name
        )));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn devices() -> Devices {
        let devices = Devices::default();
        devices.replace(
            br#"[{"kind":"a.com/d","annotations":{"org.mobyproject.buildkit.device.autoallow":true},
                  "devices":[{"name":"two","containerEdits":{"env":["TWO=2"]}},
                             {"name":"one","containerEdits":{"env":["ONE=1"]},
                              "annotations":{"org.mobyproject.buildkit.device.class":"c"}}]},
                 {"kind":"b.com/d","containerEdits":{"env":["B=b"]},
                  "devices":[{"name":"x"},{"name":"hard","containerEdits":{"deviceNodes":[{"path":"/dev/x"}]}}]},
                 {"nonsense":1}]"#,
        );
        devices
    }

    fn wanted(name: &str) -> [pb::CDIDevice; 1] {
        [pb::CDIDevice { name: name.to_owned(), ..Default::default() }]
    }

    #[test]
    fn a_step_gets_the_variables_of_what_it_names() {
        let devices = devices();
        let variables = |name: &str| devices.variables(&wanted(name)).unwrap();
        assert_eq!(variables("a.com/d=two"), ["TWO=2"]);
        assert_eq!(variables("a.com/d"), ["ONE=1"]);
        assert_eq!(variables("a.com/d=*"), ["ONE=1", "TWO=2"]);
        assert_eq!(variables("c"), ["ONE=1"]);
        assert_eq!(variables("b.com/d=x"), ["B=b"]);
    }

    #[tokio::test]
    async fn what_the_supervisor_says_counts_when_it_is_whole() {
        use std::io::Write as _;

        let told = br#"[{"kind":"a.com/d","devices":[{"name":"x"}]}]"#;
        let length = u32::try_from(told.len()).unwrap();
        for (said, sent, devices) in
            [(length, told.len(), 1), (length, told.len() - 1, 0), (MAX_MESSAGE + 1, told.len(), 0)]
        {
            let (mut teller, feed) = std::os::unix::net::UnixStream::pair().unwrap();
            teller.write_all(&said.to_le_bytes()).unwrap();
            teller.write_all(&told[..sent]).unwrap();
            drop(teller);
            let known = Arc::new(Devices::default());
            Arc::clone(&known).follow(feed.into()).await;
            assert_eq!(known.to_wire().len(), devices, "{said} {sent}");
        }
    }

    #[test]
    fn what_is_not_there_is_an_error_unless_it_is_optional() {
        let devices = devices();
        let error = devices.variables(&wanted("z.com/d=x")).unwrap_err();
        assert!(error.message().contains("not registered"));
        let optional = pb::CDIDevice { optional: true, ..wanted("z.com/d=x")[0].clone() };
        assert_eq!(devices.variables(&[optional]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn more_than_variables_is_refused() {
        let error = devices().variables(&wanted("b.com/d=hard")).unwrap_err();
        assert!(error.message().contains("deviceNodes"), "{error}");
    }

    #[test]
    fn devices_are_given_when_the_operator_or_the_client_says_so() {
        let devices = devices();
        let check = |name: &str, granted: &[&str]| {
            let mut given = Granted::default();
            granted.iter().for_each(|text| given.add(text).unwrap());
            devices.check(&wanted(name), &given)
        };
        check("a.com/d=one", &[]).unwrap();
        let error = check("b.com/d=x", &[]).unwrap_err();
        assert!(error.message().contains("requested by the build but not allowed"));
        check("b.com/d=x", &["b.com/d"]).unwrap();
        check("b.com/d=x", &["b.com/d=x"]).unwrap();
        check("b.com/d=x", &[""]).unwrap();
        assert!(check("b.com/d=x", &["a.com/d"]).is_err());
        assert!(Granted::default().add("b.com/d,what=x").is_err());
    }
}
