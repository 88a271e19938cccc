//! Jobs of CI providers: a signed token of an issuer that is trusted builds in the projects that trust the job, and nowhere else.
//! The issuer is one of the test's own, with a key made for it; the client is Depot's, which fetches the token by itself.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cofferdam_tests::http::{Response, Server as Http};
use cofferdam_tests::{Client, Context, Data, Server};
use serde_json::{Value, json};

/// What Depot's clients ask their provider for.
const AUDIENCE: &str = "https://depot.dev";

/// A provider of tokens.
struct Issuer {
    http: Http,
    key: tempfile::TempDir,
}

fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "openssl {args:?}");
    output.stdout
}

/// Makes a key; gives its modulus as a JWK has it.
fn make_key(directory: &Path) -> String {
    let file = directory.join("key.pem").display().to_string();
    let bits = "rsa_keygen_bits:2048";
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", bits, "-out", &file], b"");
    let modulus = openssl(&["rsa", "-in", &file, "-noout", "-modulus"], b"");
    let modulus = String::from_utf8(modulus).unwrap();
    let modulus = modulus.trim().strip_prefix("Modulus=").unwrap();
    URL_SAFE_NO_PAD.encode(hex::decode(modulus).unwrap())
}

fn sign(key: &Path, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = json!({ "alg": "RS256", "kid": "one", "typ": "JWT" });
    let signed = format!("{}.{}", part(&head), part(claims));
    let file = key.join("key.pem").display().to_string();
    let signature = openssl(&["dgst", "-sha256", "-sign", &file], signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

impl Issuer {
    /// One whose endpoint hands out a token for a job of `repository`.
    fn start(repository: &'static str) -> Self {
        let key = tempfile::tempdir().unwrap();
        let modulus = make_key(key.path());
        let url: Arc<OnceLock<String>> = Arc::default();
        let (known, directory) = (Arc::clone(&url), key.path().to_owned());
        let http = Http::start(move |request| {
            let issuer = known.wait();
            let path = request.path.split('?').next().unwrap_or_default();
            let answer = match path {
                "/.well-known/openid-configuration" => {
                    json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") })
                }
                "/keys" => json!({ "keys": [{
                    "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "e": "AQAB",
                    "n": modulus,
                }] }),
                "/token" => json!({ "value": sign(&directory, &claims(issuer, repository)) }),
                _ => return Response::status(404),
            };
            Response::ok(answer.to_string()).with("content-type", "application/json")
        });
        url.set(http.url("").trim_end_matches('/').to_owned()).unwrap();
        Self { http, key }
    }

    fn url(&self) -> String {
        self.http.url("").trim_end_matches('/').to_owned()
    }

    fn config(&self) -> String {
        format!("[oidc.github]\nissuer = \"{}\"\n", self.url())
    }

    /// Depot's command line as a job of this provider runs it.
    fn depot(&self, server: &Server) -> Client {
        Client::depot(&server.url())
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", self.http.url("token?x=1"))
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of the job")
    }
}

fn claims(issuer: &str, repository: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let owner = repository.split('/').next().unwrap();
    json!({
        "iss": issuer, "aud": AUDIENCE, "sub": format!("repo:{repository}:ref:refs/heads/main"),
        "repository": repository, "repository_owner": owner,
        "iat": now, "nbf": now - 5, "exp": now + 300,
    })
}

fn trust(project: &str) -> Value {
    json!({ "projectId": project, "github": { "repositoryOwner": "acme", "repository": "app" } })
}

#[test]
fn a_trusted_job_builds_in_its_project_only() {
    let issuer = Issuer::start("acme/app");
    let server = Server::start_in(Data::new(), &issuer.config());
    let (trusting, other) = (server.project("trusting"), server.project("other"));
    let context = Context::small();
    let build = |project: &str| {
        issuer.depot(&server).args("build --project").arg(project).arg(context.path())
    };
    let refused = build(&trusting.id).run().failure();
    assert!(refused.contains("unauthenticated"), "nobody trusts this job yet: {refused}");
    let method = "depot.core.v1.ProjectService/AddTrustPolicy";
    let added = server.call(method, &trust(&trusting.id)).ok();
    let _ = build(&trusting.id).success();
    assert_eq!(server.newest_build(&trusting)["status"], "STATUS_SUCCESS");
    // A foreign project looks like one that does not exist; the client then offers what the job may use.
    let _ = build(&other.id).run().failure();
    assert!(server.builds(&other).is_empty());
    let listed = issuer.depot(&server).args("projects list").success().text();
    assert!(listed.contains(&trusting.id) && !listed.contains(&other.id), "{listed}");
    let policy = &added["trustPolicy"]["trustPolicyId"];
    let gone = json!({ "projectId": trusting.id, "trustPolicyId": policy });
    let _ = server.call("depot.core.v1.ProjectService/RemoveTrustPolicy", &gone).ok();
    let refused = build(&trusting.id).run().failure();
    assert!(refused.contains("unauthenticated"), "{refused}");
}

#[test]
fn a_token_that_does_not_hold_is_refused() {
    let issuer = Issuer::start("acme/app");
    let server = Server::start_in(Data::new(), &issuer.config());
    let project = server.project("trusting");
    let method = "depot.core.v1.ProjectService/AddTrustPolicy";
    let _ = server.call(method, &trust(&project.id)).ok();
    let good = claims(&issuer.url(), "acme/app");
    let asking = |key: &Path, claims: &Value| {
        let method = "depot.core.v1.ProjectService/GetProject";
        server.call_as(&sign(key, claims), method, &json!({ "projectId": project.id }))
    };
    let _ = asking(issuer.key.path(), &good).ok();
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    for bad in [
        with("aud", json!("https://elsewhere.example")),
        with("iss", json!("https://elsewhere.example")),
        with("exp", json!(1)),
        with("repository", json!("acme/other")),
        with("repository_owner", json!("evil")),
    ] {
        assert_eq!(asking(issuer.key.path(), &bad).code(), "unauthenticated", "{bad}");
    }
    let stranger = tempfile::tempdir().unwrap();
    make_key(stranger.path());
    assert_eq!(asking(stranger.path(), &good).code(), "unauthenticated", "a forged signature");
}
