//! What server and builder say of a build in the same way.

use buffa::MessageField;
use cofferdam_wire::opentelemetry::proto::common::v1::__buffa::oneof::any_value::Value;
use cofferdam_wire::opentelemetry::proto::common::v1::{AnyValue, KeyValue};
use sha2::{Digest, Sha256};

/// Keeps these ids apart from other digests of the same id.
const PREFIX: &[u8] = b"cofferdam trace of build ";

/// The ids of a server's build in its trace. They differ from build to build and are no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildIds {
    /// The trace.
    pub trace: [u8; 16],
    /// The span of the whole build, which is the server's.
    pub span: [u8; 8],
}

impl BuildIds {
    /// Those of the build with this id.
    #[must_use]
    pub fn of(build: &str) -> Self {
        let digest: [u8; 32] =
            Sha256::new().chain_update(PREFIX).chain_update(build.as_bytes()).finalize().into();
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&digest[..16]);
        span.copy_from_slice(&digest[16..24]);
        // Zeros are no ids.
        (trace[0], span[0]) = (trace[0] | 1, span[0] | 1);
        Self { trace, span }
    }
}

/// An attribute.
#[must_use]
pub fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(Value::StringValue(value.to_owned()));
    let value = AnyValue { value, ..AnyValue::default() };
    KeyValue { key: key.to_owned(), value: MessageField::some(value), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_follow_from_the_builds() {
        let one = BuildIds::of("b1");
        assert_eq!(one, BuildIds::of("b1"));
        let other = BuildIds::of("b2");
        assert!(one.trace != other.trace && one.span != other.span);
    }
}
