#![allow(clippy::unwrap_used)]
use wire::get_build_kit_connection_response::{ActiveConnection, PendingConnection};

use super::*;

fn pending(wait_ms: i32) -> wire::GetBuildKitConnectionResponse {
    let pending = PendingConnection { wait_ms, ..Default::default() };
    wire::GetBuildKitConnectionResponse { connection: Some(pending.into()), ..Default::default() }
}

fn active(cert: &str, key: &str, ca: &str) -> wire::GetBuildKitConnectionResponse {
    let pair = |cert: &str, key: &str| wire::Cert {
        cert: cert.into(),
        key: key.into(),
        ..Default::default()
    };
    let active = ActiveConnection {
        endpoint: "tcp://h:1".into(),
        server_name: "n".into(),
        cert: pair(cert, key).into(),
        ca_cert: pair(ca, "").into(),
        ..Default::default()
    };
    wire::GetBuildKitConnectionResponse { connection: Some(active.into()), ..Default::default() }
}

#[test]
fn pauses_have_bounds() {
    let pause = |answer| match connection(answer).unwrap() {
        Connection::Pending(pause) => pause.as_millis(),
        Connection::Ready(_) => 0,
    };
    assert_eq!(pause(pending(0)), 100);
    assert_eq!(pause(pending(-5)), 100);
    assert_eq!(pause(pending(500)), 500);
    assert_eq!(pause(pending(i32::MAX)), 5000);
    assert_eq!(pause(Default::default()), 5000);
}

#[test]
fn builders_without_certificates_are_refused() {
    let ready = connection(active("c", "k", "a")).unwrap();
    let Connection::Ready(endpoint) = ready else { unreachable!() };
    assert_eq!((endpoint.address.as_str(), endpoint.key.as_str()), ("tcp://h:1", "k"));
    assert!(!format!("{endpoint:?}").contains("\"k\""));
    for (cert, key, ca) in [("", "", "a"), ("c", "", "a"), ("c", "k", "")] {
        assert!(connection(active(cert, key, ca)).is_err(), "{cert} {key} {ca}");
    }
}

#[test]
fn logins_of_registries() {
    let credential = |token: String| wire::create_build_response::Credential {
        host: "h:5000".into(),
        token,
        ..Default::default()
    };
    let found = login(credential(STANDARD.encode("x-token:a:b"))).unwrap();
    assert_eq!((found.user.as_str(), found.password.as_str()), ("x-token", "a:b"));
    for token in ["?".to_owned(), STANDARD.encode("nobody"), STANDARD.encode([0xff])] {
        assert!(login(credential(token)).is_none());
    }
}

#[test]
fn reasons_are_cut_between_characters() {
    let WireOutcome::Error(error) = outcome(Outcome::Error("日".repeat(9000))) else {
        unreachable!()
    };
    assert!(error.error.len() <= MAX_REASON && error.error.ends_with('日'));
}
