//! What steps reached over the network, and what they were refused.

use cofferdam_apiclient::{NetworkConnection, Step};

use crate::terminal::{Table, bytes, moment};

const COLUMNS: [&str; 7] = ["TIME", "STEP", "", "SENT", "RECEIVED", "TO", "ADDRESS"];

/// The connections in the order they were made; steps by their number.
pub(super) fn table(connections: &[NetworkConnection], steps: &[Step]) -> String {
    if connections.is_empty() {
        return "No connections.\n".to_owned();
    }
    let mut table = Table::new(&COLUMNS);
    for connection in connections {
        table.row(row(connection, steps));
    }
    table.take()
}

fn row(connection: &NetworkConnection, steps: &[Step]) -> Vec<String> {
    let number = steps.iter().position(|step| step.digest == connection.step_digest);
    let named = if connection.host.is_empty() { &connection.address } else { &connection.host };
    vec![
        moment(connection.opened_at),
        number.map_or_else(|| "-".to_owned(), |index| (index + 1).to_string()),
        if connection.allowed { "allowed" } else { "REFUSED" }.to_owned(),
        bytes(connection.sent_bytes),
        bytes(connection.received_bytes),
        format!("{} {}:{}", connection.protocol, named, connection.port),
        connection.address.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(host: &str, allowed: bool) -> NetworkConnection {
        NetworkConnection {
            step_digest: "sha256:aa".into(),
            step_name: "RUN".into(),
            protocol: "tcp".into(),
            host: host.into(),
            address: "192.0.2.1".into(),
            port: 443,
            allowed,
            sent_bytes: 12,
            received_bytes: 3400,
            opened_at: None,
        }
    }

    #[test]
    fn refusals_stand_out() {
        let text = table(&[connection("a.example", true), connection("", false)], &[]);
        assert_eq!(
            text,
            "TIME  STEP           SENT  RECEIVED  TO                 ADDRESS\n\
             -     -     allowed  12 B  3.4 kB    tcp a.example:443  192.0.2.1\n\
             -     -     REFUSED  12 B  3.4 kB    tcp 192.0.2.1:443  192.0.2.1\n"
        );
        assert_eq!(table(&[], &[]), "No connections.\n");
    }
}
