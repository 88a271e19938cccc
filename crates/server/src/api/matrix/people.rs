//! Everybody who may call, with tokens of all kinds, and the things they ask for.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_access::{TokenKind, mint};
use cofferdam_records::{
    Build, CachePolicy, NewBuild, NewProject, NewToken, Project, Provider, Records, StepUpdate,
};
use serde_json::json;

/// The issuer of JWTs. Its keys are served elsewhere.
pub(super) const ISSUER: &str = "http://issuer.invalid";

/// A caller: what is sent, and whether the things that are asked for are another organization's.
pub(super) struct Caller {
    pub(super) name: &'static str,
    pub(super) bearers: Vec<Option<String>>,
    pub(super) is_foreign: bool,
}

/// Makes everything that is asked for, and everybody who asks.
pub(super) struct Population {
    pub(super) records: Records,
    pub(super) key: rcgen::KeyPair,
}

impl Population {
    pub(super) async fn populate(&self) -> (Vec<Caller>, Vec<(&'static str, String)>) {
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
        for (kind, name) in
            [(TokenKind::Organization, "organization"), (TokenKind::Session, "session")]
        {
            for organization in [&own, &other] {
                let made = self.token(kind, organization, None, None, None).await;
                callers.push(caller(name, made.1, organization != &own));
            }
        }
        for found in projects {
            let made =
                self.token(TokenKind::Project, &found.organization, Some(found), None, None).await;
            if token.is_empty() {
                token = made.0;
            }
            callers.push(caller("project", made.1, found.organization != own));
        }
        for found in projects {
            let provider = Provider::GitHub { owner: "acme".into(), repository: found.id.clone() };
            policies.push(self.records.add_trust_policy(&found.id, provider).await.unwrap().id);
            callers.push(caller("jwt", self.jwt(&found.id), found.organization != own));
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
            callers.push(caller("build", made.1, found.organization != own));
        }
        for found in projects {
            let made =
                self.token(TokenKind::Pull, &found.organization, Some(found), None, None).await;
            callers.push(caller("pull", made.1, found.organization != own));
        }
        let ids = vec![
            ("$project", project.id),
            ("$build", build.id),
            ("$token", token),
            ("$policy", policies.swap_remove(0)),
            ("$organization", own),
        ];
        (callers, ids)
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
