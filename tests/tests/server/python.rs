//! PyPI's `depot-client`: gRPC over TLS, as far as that client goes.

use cofferdam_tests::{Client, Server};
use serde_json::json;

#[test]
fn what_the_python_client_can_do() {
    let server = Server::secure();
    let outcome = Client::python("tests/clients/client.py")
        .env("HOST", "localhost")
        .env("PORT", server.port().to_string())
        .env("DEPOT_API_TOKEN", server.token())
        .env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", server.authority())
        .success();
    let answers = outcome.json();
    assert_eq!(answers["project"]["name"], "python");
    assert_eq!(answers["project"]["region_id"], "eu-central-1");
    assert_eq!(answers["renamed"], json!(["renamed", "us-east-1"]));
    assert_eq!(answers["listed"], json!(["renamed"]));
    assert_eq!(
        answers["trust_policies"],
        json!([{ "repository_owner": "octo", "repository": "app" }])
    );
    assert_eq!(answers["trust_policies_left"], 0);
    assert_eq!(answers["tokens"], json!(["for another customer"]));
    for way in ["endpoint", "create_endpoint", "async_create_endpoint"] {
        let place = &answers[way];
        assert!(place["endpoint"].as_str().unwrap().starts_with("tcp://"), "{way}: {place}");
        assert_eq!(
            (&place["cert"], &place["key"], &place["ca_cert"]),
            (&json!(true), &json!(true), &json!(true)),
            "{way}"
        );
    }
    assert_eq!(answers["proxied"], "api.depot.dev:443");
    // The numbers of SUCCESS.
    assert_eq!(answers["builds"][0]["status"], 3);
    assert_eq!(answers["build"], answers["builds"][0]);
    assert_eq!(answers["async_builds"][0]["status"], 3);
    assert_eq!(answers["revoked"]["code"], "UNAUTHENTICATED");
    assert_eq!(answers["deleted"]["code"], "NOT_FOUND");
    assert_eq!(answers["listed_at_the_end"], json!([]));
    // These fail in the client, before anything is sent. Once they work the table in docs/clients.md has to change.
    for (name, error) in [
        ("create_project", "TypeError"),
        ("get_project", "AttributeError"),
        ("update_project", "TypeError"),
        ("share_build", "TypeError"),
        ("stop_sharing_build", "TypeError"),
        ("finish_build_error", "TypeError"),
    ] {
        assert_eq!(answers[name], error, "{name}");
    }
}
