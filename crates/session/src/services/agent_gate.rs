//! Which requests of a build reach the user's ssh agent.
//!
//! A build may list keys and have something signed. It may not add, remove or lock keys, nor
//! reach extensions: those requests are answered with a failure here. Framing is that of the
//! ssh agent protocol: a four-byte length, then a type byte.

/// `SSH_AGENTC_REQUEST_IDENTITIES`.
const LIST: u8 = 11;

/// `SSH_AGENTC_SIGN_REQUEST`.
const SIGN: u8 = 13;

/// A whole `SSH_AGENT_FAILURE` message.
pub(super) const REFUSAL: &[u8] = &[0, 0, 0, 1, 5];

/// Largest request, the limit of OpenSSH's agent.
const MAX_REQUEST: usize = 256 << 10;

/// What one piece of input came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    /// For the agent.
    pub(super) data: Vec<u8>,
    /// Requests to answer with [`REFUSAL`].
    pub(super) refused: usize,
}

/// The gate of one connection.
#[derive(Debug, Default)]
pub(super) struct AgentGate {
    pending: Vec<u8>,
}

impl AgentGate {
    /// Takes the next bytes; `None` when they cannot be agent requests.
    pub(super) fn take(&mut self, input: &[u8]) -> Option<Passed> {
        self.pending.extend_from_slice(input);
        let mut passed = Passed::default();
        let mut start = 0;
        while let Some((length, rest)) = self.pending[start..].split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if length == 0 || length > MAX_REQUEST {
                return None;
            }
            let Some(request) = rest.get(..length) else { break };
            let end = start + 4 + length;
            if matches!(request[0], LIST | SIGN) {
                passed.data.extend_from_slice(&self.pending[start..end]);
            } else {
                passed.refused += 1;
            }
            start = end;
        }
        self.pending.drain(..start);
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 1).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &[kind], body].concat()
    }

    #[test]
    fn only_listing_and_signing_pass() {
        let stream =
            [request(LIST, b""), request(17, b"add"), request(SIGN, b"key"), request(27, b"")];
        let mut gate = AgentGate::default();
        let passed = gate.take(&stream.concat());
        let data = [request(LIST, b""), request(SIGN, b"key")].concat();
        assert_eq!(passed, Some(Passed { data, refused: 2 }));
    }

    #[test]
    fn requests_may_come_in_pieces() {
        let stream = [request(SIGN, &[7; 1000]), request(19, b""), request(LIST, b"")].concat();
        let mut gate = AgentGate::default();
        let (mut data, mut refused) = (Vec::new(), 0);
        for piece in stream.chunks(3) {
            let passed = gate.take(piece).unwrap_or_default();
            data.extend(passed.data);
            refused += passed.refused;
        }
        assert_eq!(data, [request(SIGN, &[7; 1000]), request(LIST, b"")].concat());
        assert_eq!(refused, 1);
    }

    #[test]
    fn what_is_no_request_ends_the_connection() {
        assert_eq!(AgentGate::default().take(&[0, 0, 0, 0]), None);
        assert_eq!(AgentGate::default().take(&[255, 255, 255, 255]), None);
    }
}
