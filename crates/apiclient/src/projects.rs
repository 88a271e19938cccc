//! Projects: one customer's builds, cache and images.

use std::fmt;
use std::str::FromStr;

use buffa::{EnumValue, Enumeration, MessageField};
use chrono::{DateTime, Utc};
use cofferdam_wire::depot::core::v1 as wire;
use serde::{Serialize, Serializer};

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::page::{Page, PageRequest};
use crate::time;

/// Bytes of a gigabyte as the API counts them.
const GB: i64 = 1 << 30;

/// A project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Project {
    /// Its identity.
    pub id: String,
    /// The organization it belongs to.
    pub organization: String,
    /// Its name; not unique.
    pub name: String,
    /// Where it builds, by a name that the server only keeps.
    pub region: String,
    /// What its builder gets.
    pub hardware: Hardware,
    /// What its cache keeps.
    pub cache: CachePolicy,
    /// When it was made.
    pub created_at: Option<DateTime<Utc>>,
}

/// What a cache keeps; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CachePolicy {
    /// Most that is kept, in GiB.
    pub keep_gb: i32,
    /// How long something unused is kept.
    pub keep_days: i32,
}

/// Processors and memory of a builder, by the API's names: `16x32` has 16 processors and 32 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hardware(i32);

/// Hardware that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown hardware {text:?}: use one of {}", Hardware::names().join(", "))]
pub struct HardwareError {
    text: String,
}

impl Hardware {
    /// Every kind there is, smallest number first.
    #[must_use]
    pub fn names() -> Vec<String> {
        (1..).map_while(|number| wire::Hardware::from_i32(number).map(name)).collect()
    }
}

fn name(hardware: wire::Hardware) -> String {
    hardware.proto_name().trim_start_matches("HARDWARE_").to_ascii_lowercase()
}

impl FromStr for Hardware {
    type Err = HardwareError;

    fn from_str(text: &str) -> Result<Self, HardwareError> {
        let name = format!("HARDWARE_{}", text.to_ascii_uppercase());
        wire::Hardware::from_proto_name(&name)
            .filter(|hardware| hardware.to_i32() != 0)
            .map(|hardware| Self(hardware.to_i32()))
            .ok_or_else(|| HardwareError { text: text.to_owned() })
    }
}

impl fmt::Display for Hardware {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match wire::Hardware::from_i32(self.0) {
            // Nothing said means the first kind.
            Some(wire::Hardware::HARDWARE_UNSPECIFIED) => formatter.write_str("16x32"),
            Some(hardware) => formatter.write_str(&name(hardware)),
            None => write!(formatter, "type {}", self.0),
        }
    }
}

impl Serialize for Hardware {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What to make a project with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewProject {
    /// Its name.
    pub name: String,
    /// The organization, when the token belongs to several.
    pub organization: Option<String>,
    /// Where it builds.
    pub region: String,
    /// What its builder gets; the server's choice when absent.
    pub hardware: Option<Hardware>,
    /// What its cache keeps; the server's choice when absent.
    pub cache: Option<CachePolicy>,
}

/// What to change about a project; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectChange {
    /// Its name.
    pub name: Option<String>,
    /// Where it builds.
    pub region: Option<String>,
    /// What its builder gets.
    pub hardware: Option<Hardware>,
    /// What its cache keeps, both limits at once.
    pub cache: Option<CachePolicy>,
}

type HardwareField = Option<EnumValue<wire::Hardware>>;

fn hardware(chosen: Option<Hardware>) -> HardwareField {
    chosen.map(|Hardware(number)| EnumValue::from(number))
}

fn cache(
    chosen: Option<CachePolicy>,
) -> MessageField<wire::CachePolicy, buffa::Inline<wire::CachePolicy>> {
    let policy = chosen.map(|policy| wire::CachePolicy {
        keep_bytes: Some(i64::from(policy.keep_gb) * GB),
        keep_days: policy.keep_days,
        keep_gb: policy.keep_gb,
        ..wire::CachePolicy::default()
    });
    policy.into()
}

impl From<wire::Project> for Project {
    fn from(project: wire::Project) -> Self {
        let cache = project.cache_policy.as_option().map_or_else(CachePolicy::default, |policy| {
            let bytes = i32::try_from(policy.keep_bytes.unwrap_or(0) / GB).unwrap_or(i32::MAX);
            CachePolicy {
                keep_gb: if policy.keep_gb == 0 { bytes } else { policy.keep_gb },
                keep_days: policy.keep_days,
            }
        });
        Self {
            created_at: time::read(&project.created_at),
            id: project.project_id,
            organization: project.organization_id,
            name: project.name,
            region: project.region_id,
            hardware: Hardware(project.hardware.to_i32()),
            cache,
        }
    }
}

const MISSING: ApiError = ApiError::Incomplete { what: "project" };

impl ApiClient {
    /// The organization's projects.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn projects(&self, page: PageRequest) -> Result<Page<Project>, ApiError> {
        let request = wire::ListProjectsRequest {
            page_size: page.size,
            page_token: page.token,
            ..wire::ListProjectsRequest::default()
        };
        let call = self.project_service().list_projects_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let projects = answer.projects.into_iter().map(Project::from).collect();
        Ok(Page::new(projects, answer.next_page_token))
    }

    /// One project.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn project(&self, id: &str) -> Result<Project, ApiError> {
        let request = wire::GetProjectRequest { project_id: id.to_owned(), ..Default::default() };
        let call = self.project_service().get_project_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        answer.project.into_option().map(Project::from).ok_or(MISSING)
    }

    /// Makes a project.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn create_project(&self, new: NewProject) -> Result<Project, ApiError> {
        let request = wire::CreateProjectRequest {
            name: new.name,
            organization_id: new.organization,
            region_id: new.region,
            cache_policy: cache(new.cache),
            hardware: hardware(new.hardware),
            ..wire::CreateProjectRequest::default()
        };
        let call = self.project_service().create_project_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        answer.project.into_option().map(Project::from).ok_or(MISSING)
    }

    /// Changes a project.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn update_project(
        &self,
        id: &str,
        change: ProjectChange,
    ) -> Result<Project, ApiError> {
        let request = wire::UpdateProjectRequest {
            project_id: id.to_owned(),
            name: change.name,
            region_id: change.region,
            cache_policy: cache(change.cache),
            hardware: hardware(change.hardware),
            ..wire::UpdateProjectRequest::default()
        };
        let call = self.project_service().update_project_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        answer.project.into_option().map(Project::from).ok_or(MISSING)
    }

    /// Deletes a project with its cache, builds, tokens and images.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn delete_project(&self, id: &str) -> Result<(), ApiError> {
        let request =
            wire::DeleteProjectRequest { project_id: id.to_owned(), ..Default::default() };
        let call = self.project_service().delete_project_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }

    /// Drops a project's cache and cancels its running builds.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn reset_project(&self, id: &str) -> Result<(), ApiError> {
        let request = wire::ResetProjectRequest { project_id: id.to_owned(), ..Default::default() };
        let call = self.project_service().reset_project_with_options(request, Self::quick()).await;
        call.map(drop).map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hardware_has_names() {
        let names = Hardware::names();
        assert_eq!(names.len(), 10);
        for name in &names {
            assert_eq!(name.parse::<Hardware>().unwrap().to_string(), *name);
        }
        assert_eq!("32X64".parse::<Hardware>().unwrap().to_string(), "32x64");
        assert_eq!(Hardware(0).to_string(), "16x32");
        assert_eq!(Hardware(99).to_string(), "type 99");
        for text in ["", "UNSPECIFIED", "3x3"] {
            assert!(text.parse::<Hardware>().unwrap_err().to_string().contains("4x8"), "{text}");
        }
    }

    #[test]
    fn both_forms_of_a_cache_policy() {
        let project = |keep_bytes, keep_gb| {
            let policy = wire::CachePolicy { keep_bytes, keep_gb, ..Default::default() };
            let project = wire::Project { cache_policy: policy.into(), ..Default::default() };
            Project::from(project).cache.keep_gb
        };
        assert_eq!(project(Some(50 * GB), 0), 50);
        assert_eq!(project(None, 30), 30);
        assert_eq!(project(Some(1), 30), 30);
        assert_eq!(project(Some(i64::MAX), 0), i32::MAX);
        let sent = cache(Some(CachePolicy { keep_gb: 3, keep_days: 7 }));
        assert_eq!((sent.keep_bytes, sent.keep_gb, sent.keep_days), (Some(3 * GB), 3, 7));
        assert!(cache(None).is_unset());
    }
}
