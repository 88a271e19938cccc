//! A server's API over records of its own, and everybody who may call it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_access::{Access, AccessOptions, Issuer, OidcOptions, TokenKind, mint};
use cofferdam_fleet::{Fleet, FleetOptions};
use cofferdam_records::{
    Build, CachePolicy, NewBuild, NewProject, NewToken, Project, Provider, Records, StepUpdate,
};
use connectrpc::{ConnectRpcService, Router};
use http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::Line;
use crate::api::{Api, Logins, service};
use crate::builds::Builds;
use crate::gateway::Authority;

/// The issuer of JWTs. Its keys are served elsewhere.
const ISSUER: &str = "http://issuer.invalid";
/// An id that nothing has.
const MISSING: &str = "zzzzzzzzzz";

/// A caller: what is sent, and whether the things that are asked for belong to somebody else.
pub(super) struct Caller {
    pub(super) name: &'static str,
    pub(super) bearers: Vec<Option<String>>,
    pub(super) is_foreign: bool,
}

/// An answer, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Empty when there is no error.
    pub(super) code: String,
    pub(super) message: String,
    body: String,
}

impl Said {
    pub(super) fn letter(&self) -> char {
        match self.code.as_str() {
            "unauthenticated" => 'U',
            "permission_denied" => 'F',
            "not_found" => '-',
            _ => '+',
        }
    }
}

pub(super) struct World {
    service: ConnectRpcService<Router>,
    pub(super) callers: Vec<Caller>,
    /// What stands for what in bodies.
    ids: Vec<(&'static str, String)>,
    _directory: tempfile::TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        let (key, jwks_url) = issuer().await;
        let github = Issuer { url: Some(ISSUER.to_owned()), jwks_url: Some(jwks_url) };
        let oidc = OidcOptions { github, ..OidcOptions::default() };
        let access = Access::new(records.clone(), AccessOptions { oidc });
        let api = api(&records, access, directory.path()).await;
        let (callers, ids) = Population { records, key }.populate().await;
        Self { service: service(&api), callers, ids, _directory: directory }
    }

    /// Sends a call.
    pub(super) async fn say(
        &self,
        call: &str,
        body: &str,
        streams: bool,
        bearer: Option<&str>,
    ) -> Said {
        let mut text = body.to_owned();
        for (word, id) in &self.ids {
            text = text.replace(word, id);
        }
        self.send(call, text, streams, bearer).await
    }

    /// Sends the same call about things that do not exist.
    pub(super) async fn say_missing(&self, line: &Line, bearer: Option<&str>) -> Said {
        let mut text = line.body.to_owned();
        for (word, _) in &self.ids {
            text = text.replace(word, MISSING);
        }
        let said = self.send(&line.call, text, line.streams, bearer).await;
        Said { message: said.message.replace(MISSING, "ID"), body: String::new(), ..said }
    }

    pub(super) fn without_ids(&self, said: &Said) -> Said {
        let mut message = said.message.clone();
        for (_, id) in &self.ids {
            message = message.replace(id.as_str(), "ID");
        }
        Said { code: said.code.clone(), message, body: String::new() }
    }

    /// An answer to somebody else names nothing of this organization that was not in the question.
    pub(super) fn keeps_to_itself(&self, call: &str, body: &str, said: &Said) {
        for (word, id) in &self.ids {
            let asked = body.contains(word);
            assert!(asked || !said.body.contains(id.as_str()), "{call}: {said:?}");
        }
        assert!(!said.body.contains("the name of the project"), "{call}: {said:?}");
    }

    async fn send(&self, call: &str, body: String, streams: bool, bearer: Option<&str>) -> Said {
        let kind = if streams { "application/connect+json" } else { "application/json" };
        let mut request = Request::post(format!("/{call}"))
            .header("content-type", kind)
            .header("connect-protocol-version", "1");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let body = if streams { frame(&body) } else { body.into_bytes() };
        let request = request.body(Body::from(body)).unwrap();
        let answer = self.service.clone().oneshot(request).await.unwrap();
        let answer = axum::body::to_bytes(Body::new(answer.into_body()), 1 << 20).await.unwrap();
        let error = if streams { last(&answer)["error"].clone() } else { json_of(&answer) };
        let word = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        // Messages of answers have no code.
        let body = String::from_utf8_lossy(&answer).into_owned();
        Said { code: word("code"), message: word("message"), body }
    }
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(bytes)))
}

/// A message of a stream.
fn frame(message: &str) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message.as_bytes());
    frame
}

/// The last message of a stream, which says how it ended.
fn last(mut bytes: &[u8]) -> Value {
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] & 2 != 0 {
            return json_of(&rest[..length]);
        }
        bytes = &rest[length..];
    }
    panic!("the stream has no end")
}

/// Serves the key of an issuer.
async fn issuer() -> (rcgen::KeyPair, String) {
    use base64::Engine;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let point = key.public_key_raw();
    let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "key",
        "x": encode(&point[1..33]), "y": encode(&point[33..])}]});
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(move || async move { keys.to_string() });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (key, url)
}

async fn api(records: &Records, access: Arc<Access>, directory: &std::path::Path) -> Arc<Api> {
    let fleet = Fleet::new(FleetOptions {
        // No call gets as far as a builder.
        program: PathBuf::from("/nonexistent"),
        data_dir: directory.to_owned(),
        builder_config: toml::Table::new(),
        idle: Duration::from_secs(1),
        most: 1,
    });
    let images = crate::registry::open(records.clone(), directory).unwrap();
    let builds = Builds::new(
        records.clone(),
        Arc::clone(&access),
        fleet.await.unwrap(),
        images.clone(),
        Authority::new().unwrap(),
    );
    let logins = Arc::new(Logins::default());
    Arc::new(Api { records: records.clone(), access, builds, images, logins })
}

/// Makes everything that is asked for, and everybody who asks.
struct Population {
    records: Records,
    key: rcgen::KeyPair,
}

impl Population {
    async fn populate(&self) -> (Vec<Caller>, Vec<(&'static str, String)>) {
        let own = self.records.create_organization("own").await.unwrap().id;
        let other = self.records.create_organization("other").await.unwrap().id;
        let project = self.project(&own, "the name of the project").await;
        let sibling = self.project(&own, "sibling").await;
        let foreign = self.project(&other, "foreign").await;
        let projects = [&project, &sibling, &foreign];
        let build = self.build(&project).await;
        let mut policies = Vec::new();
        let mut callers = self.nobody(&project, &build).await;
        let mut token = String::new();
        for (kind, name) in [(TokenKind::Organization, "organization"), (TokenKind::Session, "session")] {
            for organization in [&own, &other] {
                let made = self.token(kind, organization, None, None, None).await;
                callers.push(caller(name, made.1, organization != &own));
            }
        }
        for found in projects {
            let made = self.token(TokenKind::Project, &found.organization, Some(found), None, None).await;
            if token.is_empty() {
                token = made.0;
            }
            callers.push(caller("project", made.1, found.id != project.id));
        }
        for found in projects {
            let provider = Provider::GitHub { owner: "acme".into(), repository: found.id.clone() };
            policies.push(self.records.add_trust_policy(&found.id, provider).await.unwrap().id);
            callers.push(caller("jwt", self.jwt(&found.id), found.id != project.id));
        }
        let second = self.build(&project).await;
        let of_sibling = self.build(&sibling).await;
        let of_foreign = self.build(&foreign).await;
        for (found, begun) in [
            (&project, &build),
            (&project, &second),
            (&sibling, &of_sibling),
            (&foreign, &of_foreign),
        ] {
            let kind = TokenKind::Build;
            let made = self.token(kind, &found.organization, Some(found), Some(begun), None).await;
            callers.push(caller("build", made.1, found.id != project.id));
        }
        for found in projects {
            let made = self.token(TokenKind::Pull, &found.organization, Some(found), None, None).await;
            callers.push(caller("pull", made.1, found.id != project.id));
        }
        // What siblings may know of their organization is its id and name.
        let ids = vec![
            ("$project", project.id),
            ("$build", build.id),
            ("$token", token),
            ("$policy", policies.swap_remove(0)),
            ("$organization", own),
        ];
        (forgive_siblings(callers), ids)
    }

    async fn project(&self, organization: &str, name: &str) -> Project {
        let new = NewProject {
            organization: organization.to_owned(),
            name: name.to_owned(),
            region: "us-east-1".to_owned(),
            cache: CachePolicy { keep_gb: 50, keep_days: 14 },
            hardware: 1,
        };
        self.records.create_project(new).await.unwrap()
    }

    async fn build(&self, project: &Project) -> Build {
        let new = NewBuild {
            id: None,
            project: project.id.clone(),
            organization: project.organization.clone(),
            token: None,
            command: 1,
            options: "[]".to_owned(),
        };
        let build = self.records.create_build(new).await.unwrap();
        let step = StepUpdate {
            digest: "sha256:step".to_owned(),
            name: "a step".to_owned(),
            started_at: Utc::now(),
            completed_at: None,
            cached: false,
            error: None,
            saved: Duration::ZERO,
            inputs: Vec::new(),
        };
        self.records.record_steps(&build.id, &[step]).await.unwrap();
        build
    }

    /// The id and the secret of a new token.
    async fn token(
        &self,
        kind: TokenKind,
        organization: &str,
        project: Option<&Project>,
        build: Option<&Build>,
        expires_at: Option<DateTime<Utc>>,
    ) -> (String, String) {
        let (secret, hash) = mint(kind);
        let new = NewToken {
            kind,
            organization: organization.to_owned(),
            project: project.map(|project| project.id.clone()),
            build: build.map(|build| build.id.clone()),
            parent: None,
            description: "test".to_owned(),
            hash,
            expires_at,
        };
        (self.records.create_token(new).await.unwrap().id, secret)
    }

    fn jwt(&self, repository: &str) -> String {
        let now = Utc::now().timestamp();
        let claims = json!({"iss": ISSUER, "aud": "https://depot.dev", "sub": "job", "iat": now,
            "exp": now + 3600, "repository_owner": "acme", "repository": format!("acme/{repository}")});
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some("key".to_owned());
        let key = jsonwebtoken::EncodingKey::from_ec_der(&self.key.serialize_der());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }

    async fn nobody(&self, project: &Project, build: &Build) -> Vec<Caller> {
        let (mut revoked, mut expired) = (Vec::new(), Vec::new());
        let kinds = [
            (TokenKind::Organization, None, None),
            (TokenKind::Session, None, None),
            (TokenKind::Project, Some(project), None),
            (TokenKind::Build, Some(project), Some(build)),
            (TokenKind::Pull, Some(project), None),
        ];
        for (kind, project, build) in kinds {
            let organization = &self.records.organizations().await.unwrap()[0].id;
            let made = self.token(kind, organization, project, build, None).await;
            self.records.delete_token(&made.0).await.unwrap();
            revoked.push(Some(made.1));
            let late = Some(Utc::now() - TimeDelta::seconds(1));
            expired.push(Some(self.token(kind, organization, project, build, late).await.1));
        }
        let unsigned = self.jwt(&project.id);
        let unsigned = unsigned.rsplit_once('.').unwrap().0.to_owned() + ".";
        let garbage = ["x", "cfd_org_x", "a.b.c", &unsigned, &mint(TokenKind::Organization).0];
        let garbage = garbage.into_iter().map(|text| Some(text.to_owned())).collect();
        let groups = [vec![None, Some(String::new())], garbage, revoked, expired];
        let nobody = |bearers| Caller { name: "nobody", bearers, is_foreign: true };
        groups.into_iter().map(nobody).collect()
    }
}

fn caller(name: &'static str, bearer: String, is_foreign: bool) -> Caller {
    Caller { name, bearers: vec![Some(bearer)], is_foreign }
}

/// Callers of the sibling project see their own organization in answers; only their neighbour is foreign to them. Which ids an
/// answer may have is told by the question, so they are left out where that cannot be.
fn forgive_siblings(mut callers: Vec<Caller>) -> Vec<Caller> {
    for name in ["project", "jwt", "build", "pull"] {
        let group = callers.iter_mut().filter(|caller| caller.name == name);
        // The last of a group is of the other organization, the one before of the sibling.
        let mut group: Vec<_> = group.collect();
        let sibling = group.len() - 2;
        group[sibling].is_foreign = false;
    }
    callers
}
