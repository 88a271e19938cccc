//! `[otel]`: where traces of builds go.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

/// `[otel]`. Besides the keys here there is BuildKit's `socketPath`, which has no meaning: steps are not given a collector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Otel {
    /// The collector, `http://HOST:PORT`; nowhere when empty. Our own.
    pub endpoint: String,
    /// How it is spoken to. Our own.
    pub protocol: OtelProtocol,
    /// Headers of each request, such as a token. Our own.
    pub headers: BTreeMap<String, String>,
    /// Whether the endpoint is the whole address, to which no path is added. Our own.
    pub whole: bool,
    /// What every span says of where it comes from, besides the name of the service. Our own.
    pub attributes: BTreeMap<String, String>,
}

/// How a collector is spoken to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtelProtocol {
    /// gRPC, as BuildKit's daemon does unless told otherwise.
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    /// HTTP with binary bodies.
    #[serde(rename = "http/protobuf")]
    Http,
}

/// OpenTelemetry's variables ask for a way to speak that is not spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "OTEL_EXPORTER_OTLP_PROTOCOL: unsupported protocol {0:?}: grpc and http/protobuf are spoken"
)]
pub struct UnknownProtocol(String);

impl Otel {
    /// Fills in what the file does not say from OpenTelemetry's variables.
    ///
    /// # Errors
    /// They name a collector and a protocol that is not spoken.
    pub fn add_variables(
        &mut self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), UnknownProtocol> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let either = |what: &str| {
            set(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"))
                .or_else(|| set(&format!("OTEL_EXPORTER_OTLP_{what}")))
        };
        let off = set("OTEL_SDK_DISABLED").is_some_and(|value| value == "true")
            || set("OTEL_TRACES_EXPORTER").is_some_and(|value| value != "otlp");
        let Some(endpoint) = either("ENDPOINT").filter(|_| !off && self.endpoint.is_empty()) else {
            return Ok(());
        };
        self.protocol = match either("PROTOCOL") {
            None => OtelProtocol::Grpc,
            Some(name) if name == "grpc" => OtelProtocol::Grpc,
            Some(name) if name == "http/protobuf" => OtelProtocol::Http,
            Some(name) => return Err(UnknownProtocol(name)),
        };
        self.endpoint = endpoint;
        self.whole = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").is_some();
        let headers = either("HEADERS").unwrap_or_default();
        let pairs = headers.split(',').filter_map(|pair| pair.split_once('='));
        self.headers =
            pairs.map(|(name, value)| (unescaped(name.trim()), unescaped(value.trim()))).collect();
        Ok(())
    }
}

/// The text that `%20` and the like stand for, which is how the variable writes what would part its pairs.
fn unescaped(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tried(variables: &[(&str, &str)]) -> Result<Otel, UnknownProtocol> {
        let mut otel = Otel::default();
        otel.add_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
        .map(|()| otel)
    }

    fn from(variables: &[(&str, &str)]) -> Otel {
        tried(variables).unwrap()
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_refused() {
        let asked = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ];
        assert_eq!(tried(&asked), Err(UnknownProtocol("http/json".to_owned())));
        assert_eq!(from(&asked[1..]), Otel::default(), "nobody is to be spoken to");
    }

    #[test]
    fn headers_are_unescaped() {
        let otel = from(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20YQ%3D%3D,x=1%2c2,y=50%"),
        ]);
        assert_eq!(otel.headers["authorization"], "Basic YQ==");
        assert_eq!(otel.headers["x"], "1,2");
        assert_eq!(otel.headers["y"], "50%");
    }

    #[test]
    fn variables_name_a_collector() {
        let otel = from(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer x, a=b"),
        ]);
        assert_eq!((otel.endpoint.as_str(), otel.whole), ("http://c:4318", false));
        assert_eq!(otel.protocol, OtelProtocol::Http);
        assert_eq!(otel.headers["authorization"], "Bearer x");
        assert_eq!(otel.headers["a"], "b");
        let traces = from(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://b/x"),
        ]);
        assert_eq!((traces.endpoint.as_str(), traces.whole), ("http://b/x", true));
        assert_eq!(traces.protocol, OtelProtocol::Grpc);
    }

    #[test]
    fn no_variable_means_no_collector() {
        assert_eq!(from(&[]), Otel::default());
        let off = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"), ("OTEL_TRACES_EXPORTER", "none")];
        assert_eq!(from(&off), Otel::default());
    }
}
