//! Every call of the API with every kind of token, over HTTP, against a table written by hand.
//!
//! The rules themselves have such a table in the room that decides; this one finds handlers that ask for the wrong thing, or
//! nobody. A call that is in the protocol files and not in the table fails.

mod others;
mod people;
mod world;

use std::collections::BTreeSet;
use std::path::Path;

use world::{Said, World};

/// `+` may go on (whatever comes then), `F` forbidden, `-` not found, `U` unauthenticated.
///
/// A `!` marks calls after which the thing is gone: each that may go on has a world of its own. Columns, in groups:
/// - nobody: no token, garbage, revoked, expired
/// - organization token: right, other organization; the same for sessions of browsers
/// - project token: right, another project of the organization, of another organization; the same for JWTs
/// - build token: right, of another build, of another project, of another organization
/// - pull token: right, another project, another organization
const TABLE: &str = r#"
depot.core.v1.ProjectService
  ListProjects         {}                                                   UUUU ++ ++ FFF FFF FFFF FFF
  GetProject           {"projectId":"$project"}                             UUUU +- +- +-- +-- FF-- F--
  CreateProject        {"name":"n","organizationId":"$organization"}        UUUU +- +- FF- FF- FFF- FF-
  CreateProject        {"name":"n","regionId":"us-east-1"}                  UUUU ++ ++ FFF FFF FFFF FFF
  UpdateProject        {"projectId":"$project","name":"n"}                  UUUU +- +- F-- F-- FF-- F--
  DeleteProject      ! {"projectId":"$project"}                             UUUU +- +- F-- F-- FF-- F--
  ResetProject         {"projectId":"$project"}                             UUUU +- +- F-- F-- FF-- F--
  ListTrustPolicies    {"projectId":"$project"}                             UUUU +- +- F-- F-- FF-- F--
  AddTrustPolicy       {"projectId":"$project","github":{"repositoryOwner":"a","repository":"b"}} UUUU +- +- F-- F-- FF-- F--
  RemoveTrustPolicy  ! {"projectId":"$project","trustPolicyId":"$policy"}   UUUU +- +- F-- F-- FF-- F--
  ListTokens           {"projectId":"$project"}                             UUUU +- +- F-- F-- FF-- F--
  CreateToken          {"projectId":"$project","description":"d"}           UUUU +- +- F-- F-- FF-- F--
  UpdateToken          {"tokenId":"$token","description":"d"}               UUUU +- +- F-- F-- FF-- F--
  DeleteToken        ! {"tokenId":"$token"}                                 UUUU +- +- F-- F-- FF-- F--
depot.core.v1.BuildService
  ShareBuild           {"buildId":"$build"}                                 UUUU +- +- +-- +-- F--- F--
  StopSharingBuild     {"buildId":"$build"}                                 UUUU +- +- +-- +-- F--- F--
  ListBuilds           {"projectId":"$project"}                             UUUU +- +- +-- +-- FF-- F--
  GetBuild             {"buildId":"$build"}                                 UUUU +- +- +-- +-- +--- F--
depot.core.v1.OrganizationService
  ListOrganizations    {}                                                   UUUU ++ ++ FFF FFF FFFF FFF
depot.core.v1.UsageService
  ListProjectUsage     {"startAt":"2026-01-01T00:00:00Z","endAt":"2036-01-01T00:00:00Z"} UUUU ++ ++ FFF FFF FFFF FFF
  GetProjectUsage      {"projectId":"$project","startAt":"2026-01-01T00:00:00Z","endAt":"2036-01-01T00:00:00Z"} UUUU +- +- F-- F-- FF-- F--
  GetUsage             {"startAt":"2026-01-01T00:00:00Z","endAt":"2036-01-01T00:00:00Z"} UUUU ++ ++ FFF FFF FFFF FFF
depot.build.v1.BuildService
  CreateBuild          {"projectId":"$project"}                             UUUU +- +- +-- +-- FF-- F--
  CreateBuild          {}                                                   UUUU ++ ++ +++ +++ FFFF FFF
  FinishBuild          {"buildId":"$build","success":{}}                    UUUU +- +- +-- +-- +--- F--
  GetBuildSteps        {"projectId":"$project","buildId":"$build"}          UUUU +- +- +-- +-- +--- F--
  GetBuildStepLogs     {"projectId":"$project","buildId":"$build","buildStepDigest":"sha256:step"} UUUU +- +- +-- +-- +--- F--
depot.build.v1.RegistryService
  ListImages           {"projectId":"$project"}                             UUUU +- +- +-- +-- FF-- F--
  DeleteImage          {"projectId":"$project","imageTags":[]}              UUUU +- +- F-- F-- FF-- F--
depot.buildkit.v1.BuildKitService
  GetEndpoint        ~ {"buildId":"$build","platform":"PLATFORM_AMD64"}     UUUU +- +- F-- F-- +--- F--
  ReportHealth       ~ {"buildId":"$build","platform":"PLATFORM_AMD64"}     UUUU +- +- F-- F-- +--- F--
  ReleaseEndpoint      {"buildId":"$build","platform":"PLATFORM_AMD64"}     UUUU +- +- F-- F-- +--- F--
depot.cli.v1.BuildService
  CreateBuild          {"projectId":"$project"}                             UUUU +- +- +-- +-- FF-- F--
  CreateBuild          {"projectId":""}                                     UUUU ++ ++ +++ +++ FFFF FFF
  GetBuild             {"buildId":"$build"}                                 UUUU +- +- +-- +-- +--- F--
  FinishBuild          {"buildId":"$build","canceled":{}}                   UUUU +- +- +-- +-- +--- F--
  GetBuildKitConnection {"buildId":"$build"}                                UUUU +- +- F-- F-- +--- F--
  ReportBuildHealth    {"buildId":"$build"}                                 UUUU +- +- F-- F-- +--- F--
  ReportStatusStream ~ {"buildId":"$build"}                                 UUUU +- +- F-- F-- +--- F--
  ReportStatus         {"buildId":"$build"}                                 UUUU +- +- F-- F-- +--- F--
  ReportTimings        {"buildId":"$build"}                                 UUUU +- +- F-- F-- +--- F--
  ReportBuildContext   {"buildId":"$build"}                                 UUUU +- +- F-- F-- +--- F--
  ListBuilds           {"projectId":"$project"}                             UUUU +- +- +-- +-- FF-- F--
  GetPullInfo          {"buildId":"$build"}                                 UUUU +- +- +-- +-- +--- F--
  GetPullToken         {"projectId":"$project","buildId":""}                UUUU +- +- +-- +-- ++-- F--
  GetPullToken         {"projectId":"","buildId":"$build"}                  UUUU +- +- +-- +-- +--- F--
  GetPullToken         {}                                                   UUUU ++ ++ +++ +++ ++++ FFF
depot.cli.v1.PushService
  StartPush            {"buildId":"$build","tag":"t"}                       UUUU +- +- +-- +-- +--- F--
  FinishPush           {"buildId":"$build","pushId":"p"}                    UUUU +- +- +-- +-- +--- F--
depot.cli.v1beta1.LoginService
  StartLogin           {}                                                   ++++ ++ ++ +++ +++ ++++ +++
  FinishLogin        ~ {"id":"nobody-began-this"}                           ---- -- -- --- --- ---- ---
depot.cli.v1beta1.ProjectsService
  ListProjects         {}                                                   UUUU ++ ++ +++ +++ FFFF FFF
  ResetProjectCache    {"projectId":"$project"}                             UUUU +- +- F-- F-- FF-- F--
cofferdam.server.v1.BuildService
  CancelBuild          {"buildId":"$build"}                                 UUUU +- +- +-- +-- F--- F--
  ListConnections      {"buildId":"$build"}                                 UUUU +- +- +-- +-- +--- F--
  GetWalls             {"buildId":"$build"}                                 UUUU +- +- +-- +-- +--- F--
cofferdam.server.v1.ProjectService
  GetSettings          {"projectId":"$project"}                             UUUU +- +- +-- +-- FF-- F--
  UpdateSettings       {"projectId":"$project","isolation":"gvisor"}        UUUU +- +- F-- F-- FF-- F--
  ListStorage          {}                                                   UUUU ++ ++ FFF FFF FFFF FFF
  ListStorage          {"projectId":"$project"}                             UUUU +- +- F-- F-- FF-- F--
"#;

/// A line of the table.
struct Line {
    call: String,
    /// Whether the call is a stream in one direction.
    streams: bool,
    /// Whether the thing is gone afterwards.
    destroys: bool,
    body: &'static str,
    expected: Vec<char>,
}

fn lines() -> Vec<Line> {
    let mut service = "";
    let mut lines = Vec::new();
    for line in TABLE.trim().lines() {
        if !line.starts_with(' ') {
            service = line.trim();
            continue;
        }
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let call = format!("{service}/{}", words.remove(0));
        let mark = ["!", "~"].into_iter().find(|mark| words[0] == *mark);
        words.drain(..usize::from(mark.is_some()));
        let body = words.remove(0);
        let expected: Vec<char> = words.concat().chars().collect();
        let (streams, destroys) = (mark == Some("~"), mark == Some("!"));
        lines.push(Line { call, streams, destroys, body, expected });
    }
    lines
}

/// All calls of the protocol files of services that this server offers.
fn calls_of_the_protocol(directory: &Path, calls: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            calls_of_the_protocol(&path, calls);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let word = |line: &str, at: usize| {
            line.split([' ', ';', '(']).nth(at).unwrap_or_default().to_owned()
        };
        let (mut package, mut service) = (String::new(), String::new());
        for line in text.lines().map(str::trim) {
            if line.starts_with("package ") {
                package = word(line, 1);
            } else if line.starts_with("service ") {
                service = word(line, 1);
            } else if line.starts_with("rpc ") {
                calls.insert(format!("{package}.{service}/{}", word(line, 1)));
            }
        }
    }
}

#[test]
fn the_table_has_every_call() {
    let protocol = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let mut calls = BTreeSet::new();
    calls_of_the_protocol(&protocol.join("depot"), &mut calls);
    calls_of_the_protocol(&protocol.join("cofferdam/server"), &mut calls);
    let named: BTreeSet<String> = lines().into_iter().map(|line| line.call).collect();
    assert_eq!(named, calls);
    assert!(calls.len() > 40, "{}", calls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    let mut cells = 0;
    for line in lines() {
        assert_eq!(line.expected.len(), world.callers.len(), "{}", line.call);
        for (column, expected) in line.expected.iter().copied().enumerate() {
            let fresh = match line.destroys && expected == '+' {
                true => Some(World::new().await),
                false => None,
            };
            let world = fresh.as_ref().unwrap_or(&world);
            let caller = &world.callers[column];
            for bearer in &caller.bearers {
                let said = world.say(&line.call, line.body, line.streams, bearer.as_deref()).await;
                cells += 1;
                if said.letter() != expected {
                    wrong.push(format!(
                        "{} {}, column {column} ({}): {} instead of {expected}: {said:?}",
                        line.call,
                        line.body,
                        caller.name,
                        said.letter()
                    ));
                }
                if expected == '-' {
                    let missing = world.say_missing(&line, bearer.as_deref()).await;
                    assert_eq!(said.code, missing.code, "{}", line.call);
                    let (there, nowhere) = (&said.message, &missing.message);
                    assert_eq!(world.hide_ids(there), world.hide_ids(nowhere), "{}", line.call);
                }
                if caller.is_foreign {
                    world.keeps_to_itself(&line.call, line.body, &said);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cells > 1000, "{cells}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_help() {
    let world = World::new().await;
    let project = r#"{"projectId":"$project"}"#;
    let said = async |call: &str, bearer: Option<&str>| -> Said {
        world.say(&format!("depot.core.v1.ProjectService/{call}"), project, false, bearer).await
    };
    let right = |name: &str| {
        let caller = world.callers.iter().find(|caller| caller.name == name).unwrap();
        caller.bearers[0].clone().unwrap()
    };
    let none = said("GetProject", None).await;
    assert!(none.message.contains("Authorization: Bearer"), "{none:?}");
    let forbidden = said("DeleteProject", Some(&right("project"))).await;
    assert!(forbidden.message.contains("an organization token"), "{forbidden:?}");
    for caller in &world.callers {
        for bearer in caller.bearers.iter().flatten().filter(|bearer| bearer.len() > 20) {
            let said = said("DeleteToken", Some(bearer)).await;
            assert!(!said.message.contains(bearer.as_str()), "{said:?}");
        }
    }
}
