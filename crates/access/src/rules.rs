//! The table of who may do what. Data, so that it can be read as one thing.
//!
//! What is not in the table is forbidden.

use crate::principal::PrincipalKind;

/// Everything that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// List the organizations of whoever asks.
    ListOrganizations,
    /// List all projects of an organization.
    ListProjects,
    /// List those projects that whoever asks can build in.
    FindProjects,
    /// Make a project.
    CreateProject,
    /// Look at a project's settings.
    ReadProject,
    /// Change a project's settings.
    ChangeProject,
    /// Delete a project.
    DeleteProject,
    /// Empty a project's cache.
    ResetProject,
    /// List, make, describe and revoke tokens.
    ManageTokens,
    /// List, add and remove trust policies.
    ManageTrust,
    /// Look at what was used.
    Usage,
    /// Begin a build.
    CreateBuild,
    /// List a project's builds.
    ListBuilds,
    /// Look at a build: its state, steps, logs, network record.
    ReadBuild,
    /// Make and take back the link under which everybody can look at a build.
    ShareBuild,
    /// Cancel a build.
    CancelBuild,
    /// Say how a build ended.
    FinishBuild,
    /// Reach a build's builder and report about the build.
    ConnectBuild,
    /// Get a pull token.
    PullToken,
    /// Fetch images.
    Pull,
    /// Store images.
    Push,
    /// List a project's images.
    ListImages,
    /// Delete images.
    DeleteImage,
    /// Sign a browser in.
    SignIn,
    /// Give a terminal that asked for it a token of the organization.
    ApproveLogin,
}

/// How far an action reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nowhere.
    Nothing,
    /// The token's own build.
    Build,
    /// The token's own project, for as long as the token's own build runs.
    RunningBuild,
    /// The token's own project with all it has, or the projects that trust a JWT.
    Project,
    /// The token's organization with all it has.
    Organization,
}

/// One line of the table.
#[derive(Debug)]
pub struct Rule {
    /// What is done.
    pub action: Action,
    /// What it is called: "may not …".
    pub called: &'static str,
    reaches: [Reach; 6],
}

impl Rule {
    /// How far the action reaches for a kind of principal.
    #[must_use]
    pub const fn reach(&self, kind: PrincipalKind) -> Reach {
        // The columns are in the order of the kinds.
        self.reaches[kind as usize]
    }

    /// The kinds of tokens that may, for the message to somebody who may not.
    pub(crate) fn needed(&self) -> String {
        let words = [
            (PrincipalKind::Build, "the token of this build"),
            (PrincipalKind::Project, "a token of this project"),
            (PrincipalKind::Organization, "an organization token"),
        ];
        let may = |kind| self.reach(kind) != Reach::Nothing;
        let words: Vec<&str> =
            words.into_iter().filter(|(kind, _)| may(*kind)).map(|(_, word)| word).collect();
        words.join(" or ")
    }
}

/// The line of an action.
#[must_use]
pub fn rule(action: Action) -> &'static Rule {
    // The lines are in the order of the actions; a test holds them to it.
    &RULES[action as usize]
}

const fn line(action: Action, called: &'static str, reaches: [Reach; 6]) -> Rule {
    Rule { action, called, reaches }
}

const ALL: Reach = Reach::Organization;
const OWN: Reach = Reach::Project;
const RUNS: Reach = Reach::RunningBuild;
const BUILD: Reach = Reach::Build;
const NO: Reach = Reach::Nothing;

#[rustfmt::skip]
static RULES: [Rule; 25] = [
    //                                                               organization  session  project  oidc  build  pull
    line(Action::ListOrganizations, "list organizations",                   [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::ListProjects,      "list the projects of an organization", [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::FindProjects,      "list projects",                        [ALL,  ALL,     OWN,     OWN,  NO,    NO]),
    line(Action::CreateProject,     "create projects",                      [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::ReadProject,       "read settings of projects",            [ALL,  ALL,     OWN,     OWN,  NO,    NO]),
    line(Action::ChangeProject,     "change projects",                      [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::DeleteProject,     "delete projects",                      [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::ResetProject,      "reset projects",                       [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::ManageTokens,      "manage tokens",                        [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::ManageTrust,       "manage trust policies",                [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::Usage,             "read usage",                           [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::CreateBuild,       "begin builds",                         [ALL,  ALL,     OWN,     OWN,  NO,    NO]),
    line(Action::ListBuilds,        "list builds",                          [ALL,  ALL,     OWN,     OWN,  NO,    NO]),
    line(Action::ReadBuild,         "read builds",                          [ALL,  ALL,     OWN,     OWN,  BUILD, NO]),
    line(Action::ShareBuild,        "share builds",                         [ALL,  ALL,     OWN,     OWN,  NO,    NO]),
    line(Action::CancelBuild,       "cancel builds",                        [ALL,  ALL,     OWN,     OWN,  NO,    NO]),
    line(Action::FinishBuild,       "finish builds",                        [ALL,  ALL,     OWN,     OWN,  BUILD, NO]),
    line(Action::ConnectBuild,      "connect to builders",                  [ALL,  ALL,     NO,      NO,   BUILD, NO]),
    line(Action::PullToken,         "get pull tokens",                      [ALL,  ALL,     OWN,     OWN,  OWN,   NO]),
    line(Action::Pull,              "pull images",                          [ALL,  ALL,     OWN,     OWN,  OWN,   OWN]),
    line(Action::Push,              "push images (a build token may while its build runs)",
                                                                            [ALL,  ALL,     OWN,     OWN,  RUNS,  NO]),
    line(Action::ListImages,        "list images",                          [ALL,  ALL,     OWN,     OWN,  NO,    NO]),
    line(Action::DeleteImage,       "delete images",                        [ALL,  ALL,     NO,      NO,   NO,    NO]),
    line(Action::SignIn,            "sign a browser in",                    [ALL,  NO,      NO,      NO,   NO,    NO]),
    line(Action::ApproveLogin,      "approve logins",                       [ALL,  ALL,     NO,      NO,   NO,    NO]),
];

impl Action {
    /// All of them, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        RULES.iter().map(|rule| rule.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_are_where_they_are_looked_up() {
        for (index, line) in RULES.iter().enumerate() {
            assert_eq!(line.action as usize, index, "{:?}", line.action);
            assert_eq!(rule(line.action).action, line.action);
        }
        for (index, kind) in PrincipalKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind:?}");
        }
        assert_eq!(RULES.len(), Action::ApproveLogin as usize + 1);
    }

    #[test]
    fn what_is_needed_is_said() {
        assert_eq!(rule(Action::DeleteProject).needed(), "an organization token");
        assert_eq!(
            rule(Action::ConnectBuild).needed(),
            "the token of this build or an organization token"
        );
        assert_eq!(
            rule(Action::ShareBuild).needed(),
            "a token of this project or an organization token"
        );
    }
}
