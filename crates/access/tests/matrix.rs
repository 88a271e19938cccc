//! Every action with every kind of caller, against a table that was written by hand from what tokens are meant for.
//!
//! The table below knows nothing of the rules in the crate. A cell that is wrong there or here fails.

#![allow(clippy::unwrap_used)]

mod places;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::Utc;
use cofferdam_access::{
    Access, AccessOptions, Action, Denied, Issuer, OidcOptions, PrincipalKind, Resource, TokenKind,
};
use cofferdam_records::{BuildStatus, Provider};
use places::Place;
use places::issuer::{Key, Server};

/// `+` allowed, `F` forbidden, `-` not found, `U` unauthenticated.
///
/// Columns, in groups:
/// - nobody: no token, empty, garbage, cut short, revoked, expired (one of each kind)
/// - organization token: right, other organization; the same for sessions
/// - project token: right, another project of the organization, a project of another organization; the same for JWTs
/// - build token: right, of a build that ended, of another build, of another project, of another organization
/// - pull token: right, another project, another organization
const TABLE: &str = "
action             on              nobody  org session  project oidc  build  pull
ListOrganizations  organization    UUUUUU  +-  +-       FF-     FF-   FFFF-  FF-
ListOrganizations  own             UUUUUU  ++  ++       FFF     FFF   FFFFF  FFF
ListProjects       organization    UUUUUU  +-  +-       FF-     FF-   FFFF-  FF-
ListProjects       own             UUUUUU  ++  ++       FFF     FFF   FFFFF  FFF
FindProjects       organization    UUUUUU  +-  +-       ++-     ++-   FFFF-  FF-
FindProjects       own             UUUUUU  ++  ++       +++     +++   FFFFF  FFF
CreateProject      organization    UUUUUU  +-  +-       FF-     FF-   FFFF-  FF-
CreateProject      own             UUUUUU  ++  ++       FFF     FFF   FFFFF  FFF
ReadProject        project         UUUUUU  +-  +-       +--     +--   FFF--  F--
ChangeProject      project         UUUUUU  +-  +-       F--     F--   FFF--  F--
DeleteProject      project         UUUUUU  +-  +-       F--     F--   FFF--  F--
ResetProject       project         UUUUUU  +-  +-       F--     F--   FFF--  F--
ManageTokens       project         UUUUUU  +-  +-       F--     F--   FFF--  F--
ManageTokens       token           UUUUUU  +-  +-       F--     F--   FFF--  F--
ManageTokens       orgtoken        UUUUUU  +-  +-       ---     ---   -----  ---
ManageTokens       buildtoken      UUUUUU  --  --       ---     ---   -----  ---
ManageTrust        project         UUUUUU  +-  +-       F--     F--   FFF--  F--
Usage              organization    UUUUUU  +-  +-       FF-     FF-   FFFF-  FF-
Usage              project         UUUUUU  +-  +-       F--     F--   FFF--  F--
CreateBuild        project         UUUUUU  +-  +-       +--     +--   FFF--  F--
ListBuilds         project         UUUUUU  +-  +-       +--     +--   FFF--  F--
ReadBuild          build           UUUUUU  +-  +-       +--     +--   +----  F--
ShareBuild         build           UUUUUU  +-  +-       +--     +--   F----  F--
CancelBuild        build           UUUUUU  +-  +-       +--     +--   F----  F--
FinishBuild        build           UUUUUU  +-  +-       +--     +--   +----  F--
ConnectBuild       build           UUUUUU  +-  +-       F--     F--   +----  F--
PullToken          project         UUUUUU  +-  +-       +--     +--   +++--  F--
PullToken          build           UUUUUU  +-  +-       +--     +--   +----  F--
Pull               project         UUUUUU  +-  +-       +--     +--   +++--  +--
Push               project         UUUUUU  +-  +-       +--     +--   +F+--  F--
ListImages         project         UUUUUU  +-  +-       +--     +--   FFF--  F--
DeleteImage        project         UUUUUU  +-  +-       F--     F--   FFF--  F--
SignIn             own             UUUUUU  ++  FF       FFF     FFF   FFFFF  FFF
ApproveLogin       own             UUUUUU  ++  ++       FFF     FFF   FFFFF  FFF
";

/// The groups of the table's columns and what is in them.
const GROUPS: [(&str, usize); 7] = [
    ("nobody", 6),
    ("org", 2),
    ("session", 2),
    ("project", 3),
    ("oidc", 3),
    ("build", 5),
    ("pull", 3),
];

/// A caller: what is sent, and for JWTs and tokens which column it is.
struct Caller {
    name: String,
    bearers: Vec<Option<String>>,
}

struct World {
    access: Arc<Access>,
    callers: Vec<Caller>,
    /// What is asked for, by the word in the table.
    ids: HashMap<&'static str, String>,
    _place: Place,
    _issuer: Server,
}

impl World {
    fn resource<'a>(&'a self, word: &str) -> Resource<'a> {
        resource(word, self.ids.get(word).map_or("", String::as_str))
    }
}

fn resource<'a>(word: &str, id: &'a str) -> Resource<'a> {
    match word {
        "organization" => Resource::Organization(Some(id)),
        "own" => Resource::Organization(None),
        "project" => Resource::Project(id),
        "build" => Resource::Build(id),
        "token" | "orgtoken" | "buildtoken" => Resource::Token(id),
        other => panic!("{other}"),
    }
}

async fn world() -> World {
    let place = Place::new().await;
    let issuer = Server::start().await;
    let key = Key::ec("key");
    let url = issuer.issuer("/github", &[&key]);
    let (own, other) = (place.organization("own").await, place.organization("other").await);
    let project = place.project(&own, "project").await;
    let sibling = place.project(&own, "sibling").await;
    let foreign = place.project(&other, "foreign").await;
    let build = place.build(&project).await;
    let ended = place.build(&project).await;
    let second = place.build(&project).await;
    let of_sibling = place.build(&sibling).await;
    let of_foreign = place.build(&foreign).await;
    let finished =
        place.records.finish_build(&ended.id, BuildStatus::Success, None, Utc::now()).await;
    assert!(finished.unwrap());

    let mut secrets: Vec<(String, Vec<Option<String>>)> = Vec::new();
    let mut add = |name: &str, secret: String| secrets.push((name.to_owned(), vec![Some(secret)]));
    let mut ids = HashMap::new();
    let mut org_tokens = Vec::new();
    for (kind, word) in [(TokenKind::Organization, "org"), (TokenKind::Session, "session")] {
        for organization in [&own, &other] {
            let made = place.organization_token(kind, organization).await;
            add(word, made.secret.clone());
            org_tokens.push(made);
        }
    }
    ids.insert("orgtoken", org_tokens[0].token.id.clone());
    for found in [&project, &sibling, &foreign] {
        let made = place.project_token(TokenKind::Project, found).await;
        ids.entry("token").or_insert(made.token.id);
        add("project", made.secret);
    }
    for (found, repository) in [(&project, "own"), (&sibling, "sibling"), (&foreign, "foreign")] {
        let provider = Provider::GitHub { owner: "acme".into(), repository: repository.to_owned() };
        place.records.add_trust_policy(&found.id, provider).await.unwrap();
        let now = Utc::now().timestamp();
        let claims = serde_json::json!({
            "iss": url, "aud": "https://depot.dev", "sub": "job", "iat": now, "exp": now + 300,
            "repository_owner": "acme", "repository": format!("acme/{repository}"),
        });
        add("oidc", key.sign(&claims));
    }
    for (found, build) in [
        (&project, &build),
        (&project, &ended),
        (&project, &second),
        (&sibling, &of_sibling),
        (&foreign, &of_foreign),
    ] {
        let made = place.build_token(found, build).await;
        ids.entry("buildtoken").or_insert(made.token.id);
        add("build", made.secret);
    }
    for found in [&project, &sibling, &foreign] {
        add("pull", place.project_token(TokenKind::Pull, found).await.secret);
    }

    let mut callers = nobody(&place, &project, &build).await;
    callers.extend(secrets.into_iter().map(|(name, bearers)| Caller { name, bearers }));
    ids.insert("organization", own);
    ids.insert("project", project.id);
    ids.insert("build", build.id);
    let github = Issuer { url: Some(url), jwks_url: None };
    let options = AccessOptions { oidc: OidcOptions { github, ..OidcOptions::default() } };
    let access = Access::new(place.records.clone(), options);
    World { access, callers, ids, _place: place, _issuer: issuer }
}

/// Those whom nobody knows.
async fn nobody(
    place: &Place,
    project: &cofferdam_records::Project,
    build: &cofferdam_records::Build,
) -> Vec<Caller> {
    let kinds = [
        TokenKind::Organization,
        TokenKind::Session,
        TokenKind::Project,
        TokenKind::Build,
        TokenKind::Pull,
    ];
    let (mut cut, mut revoked, mut expired) = (Vec::new(), Vec::new(), Vec::new());
    for kind in kinds {
        let with_project = matches!(kind, TokenKind::Project | TokenKind::Build | TokenKind::Pull);
        let made = place
            .token(
                kind,
                &project.organization,
                with_project.then_some(project),
                (kind == TokenKind::Build).then_some(build),
                None,
                None,
            )
            .await;
        cut.push(Some(made.secret[..made.secret.len() - 1].to_owned()));
        assert_eq!(place.records.delete_token(&made.token.id).await.unwrap(), [made.token.id]);
        revoked.push(Some(made.secret));
        let late = place
            .token(
                kind,
                &project.organization,
                with_project.then_some(project),
                (kind == TokenKind::Build).then_some(build),
                None,
                Some(Utc::now() - chrono::TimeDelta::milliseconds(1)),
            )
            .await;
        expired.push(Some(late.secret));
    }
    let garbage = [
        "x",
        "cfd_",
        "cfd_org_",
        "a.b.c",
        "..",
        "\u{0}",
        "Bearer",
        "' OR 1=1 --",
        "cfd_root_AAAA",
        &"A".repeat(100_000),
        &format!("cfd_org_{}", "A".repeat(43)),
    ];
    let garbage = garbage.into_iter().map(|text| Some(text.to_owned())).collect();
    let group = [
        vec![None],
        vec![Some(String::new()), Some("  ".to_owned())],
        garbage,
        cut,
        revoked,
        expired,
    ];
    group.into_iter().map(|bearers| Caller { name: "nobody".to_owned(), bearers }).collect()
}

/// The lines of the table: action, what it is done with, one letter for each caller.
fn lines() -> Vec<(Action, &'static str, Vec<char>)> {
    let mut lines = TABLE.trim().lines();
    let head: Vec<_> = lines.next().unwrap().split_whitespace().skip(2).collect();
    assert_eq!(head, GROUPS.map(|(name, _)| name));
    let line = |line: &'static str| {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let on = words.next().unwrap();
        let groups: Vec<_> = words.collect();
        assert_eq!(groups.len(), GROUPS.len(), "{line}");
        for (group, (_, count)) in groups.iter().zip(GROUPS) {
            assert_eq!(group.len(), count, "{line}");
        }
        let action = Action::all().find(|action| format!("{action:?}") == name);
        (action.expect(name), on, groups.concat().chars().collect())
    };
    lines.map(line).collect()
}

#[test]
fn the_table_has_every_action_and_every_kind_of_caller() {
    let lines = lines();
    for action in Action::all() {
        assert!(lines.iter().any(|(named, ..)| *named == action), "{action:?}");
    }
    for kind in PrincipalKind::ALL {
        let word = match kind {
            PrincipalKind::Organization => "org",
            PrincipalKind::Session => "session",
            PrincipalKind::Project => "project",
            PrincipalKind::Oidc => "oidc",
            PrincipalKind::Build => "build",
            PrincipalKind::Pull => "pull",
        };
        assert!(GROUPS.iter().any(|(name, _)| *name == word));
    }
}

#[tokio::test]
async fn every_cell() {
    let world = world().await;
    let columns: usize = GROUPS.iter().map(|(_, count)| count).sum();
    assert_eq!(world.callers.len(), columns);
    let mut wrong = Vec::new();
    let mut cells = 0;
    for (action, on, expected) in lines() {
        for (column, (caller, expected)) in world.callers.iter().zip(expected).enumerate() {
            for bearer in &caller.bearers {
                let bearer = bearer.as_deref();
                let outcome = world.access.authorize(bearer, action, world.resource(on)).await;
                let letter = match &outcome {
                    Ok(_) => '+',
                    Err(Denied::Unauthenticated(_)) => 'U',
                    Err(Denied::Forbidden { .. }) => 'F',
                    Err(Denied::NotFound { .. }) => '-',
                    Err(Denied::Unavailable(error)) => panic!("{error}"),
                };
                cells += 1;
                if letter != expected {
                    let name = &caller.name;
                    wrong.push(format!(
                        "{action:?} on {on}, column {column} ({name}): {letter}, expected {expected}"
                    ));
                }
                if let Ok(grant) = &outcome {
                    granted(&world, grant, on);
                }
                if letter == '-' {
                    same_as_missing(&world, bearer, action, on, &outcome.unwrap_err()).await;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cells > 1000, "{cells}");
}

/// A grant names what was asked for and nothing else.
fn granted(world: &World, grant: &cofferdam_access::Grant, on: &str) {
    let project = grant.project.as_ref().map(|project| &project.id);
    match on {
        "own" => assert_eq!(project, None),
        "organization" | "orgtoken" => {
            assert_eq!((&grant.organization, project), (&world.ids["organization"], None));
        }
        _ => {
            assert_eq!(grant.organization, world.ids["organization"]);
            assert_eq!(project, Some(&world.ids["project"]));
        }
    }
    let build = grant.build.as_ref().map(|build| &build.id);
    assert_eq!(build, (on == "build").then(|| &world.ids["build"]));
    assert_eq!(grant.token.as_ref().map(|token| token.id.as_str()), grant.principal.token_id());
}

/// What is not for the caller's eyes reads like what does not exist.
async fn same_as_missing(
    world: &World,
    bearer: Option<&str>,
    action: Action,
    on: &str,
    denied: &Denied,
) {
    let missing = "zzzzzzzzzz";
    let outcome = world.access.authorize(bearer, action, resource(on, missing)).await;
    let there = denied.to_string().replace(&world.ids[on], "ID");
    let nowhere = outcome.unwrap_err().to_string().replace(missing, "ID");
    assert_eq!(there, nowhere);
    assert!(there.contains("ID"), "{there}");
}
