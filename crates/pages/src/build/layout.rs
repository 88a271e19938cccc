//! The build page laid out for `build.html`.

use askama::Template;

use super::{Audience, BuildPage, MAX_STEPS, Status, Summary};
use crate::format;
use crate::frame::{Frame, document};
use crate::network::{MAX_CONNECTION_ROWS, Table, Totals};
use crate::paths;
use crate::step::{Budget, Row, RowContext, State, StepView, paragraph};
use crate::text::{Markup, plain, shown};
use crate::waterfall::Axis;

/// Seconds between two loads of a running build's page.
const REFRESH_SECONDS: u32 = 5;
/// The most bytes of markup of the build's error.
const MAX_ERROR_MARKUP: usize = 24 * 1024;

#[derive(Template)]
#[template(path = "build.html")]
struct BuildTemplate {
    frame: Frame,
    shared: bool,
    project: Markup,
    project_path: Option<String>,
    build: Summary,
    error: Option<Markup>,
    /// The first step that failed.
    culprit: Option<Culprit>,
    axis: Axis,
    rows: Vec<Row>,
    /// How many steps are not shown; empty if all are.
    more_steps: String,
    totals: Totals,
    /// Connections of no step that is shown.
    network: Option<Table>,
    refresh: Refresh,
    /// The command that prints the whole log.
    logs_command: Option<Markup>,
}

/// Where the reader of a failed build should look first.
struct Culprit {
    ordinal: u64,
    name: Markup,
}

/// Whether the page loads itself again.
#[derive(PartialEq, Eq)]
enum Refresh {
    Never,
    On,
    Off,
}

impl BuildPage {
    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        document(&self.laid_out())
    }

    fn laid_out(&self) -> BuildTemplate {
        let (build, now) = (&self.build, self.now);
        let steps = &self.steps[..self.steps.len().min(MAX_STEPS)];
        let (began, ended) = (build.began(), build.ended(now));
        let axis = Axis::new(began, ended, steps);
        let context = RowContext { status: build.status, axis: &axis, start: began, end: ended };
        let mut budget = Budget::of_a_page();
        let rows = rows(steps, &context, &mut budget);
        let room = budget.rows().max(MAX_CONNECTION_ROWS);
        let caption = shown("Connections of steps that are not listed");
        let (member, project_path) = match &self.audience {
            Audience::Member(_) => (true, Some(paths::project_path(&self.project.id))),
            Audience::Shared => (false, None),
        };
        let from_steps = steps.iter().flat_map(|step| &step.connections);
        BuildTemplate {
            frame: self.frame(),
            shared: !member,
            project: shown(&self.project.name),
            project_path,
            error: build.error.as_deref().map(|error| paragraph(error, MAX_ERROR_MARKUP)),
            culprit: culprit(steps),
            more_steps: self.more_steps(),
            totals: Totals::of(from_steps.chain(&self.connections)),
            network: Table::new(caption, &self.connections, began, room),
            refresh: match (build.status, self.refresh) {
                (Status::Running, true) => Refresh::On,
                (Status::Running, false) => Refresh::Off,
                _ => Refresh::Never,
            },
            logs_command: member.then(|| shown(&format!("cofferdam builds logs {}", build.id))),
            build: Summary::new(build, now),
            axis,
            rows,
        }
    }

    fn frame(&self) -> Frame {
        let word = self.build.status.word();
        let title = format!("{word} · {} · build {}", plain(&self.project.name), self.build.id);
        let frame = match &self.audience {
            Audience::Member(viewer) => Frame::new(&title, viewer),
            Audience::Shared => Frame::bare(&title),
        };
        let running = self.build.status == Status::Running;
        Frame {
            icon: self.build.status.icon(),
            refresh: (running && self.refresh).then_some(REFRESH_SECONDS),
            ..frame
        }
    }

    fn more_steps(&self) -> String {
        let cut = self.steps.len().saturating_sub(MAX_STEPS) as u64;
        match (cut, self.more_steps) {
            (0, false) => String::new(),
            (_, true) => "There are more steps than this page shows.".to_owned(),
            (cut, false) => format!("{} not shown.", format::counted(cut, "more step")),
        }
    }
}

/// Rows in the order of steps; those that failed or run draw on the budget first.
fn rows(steps: &[StepView], context: &RowContext<'_>, budget: &mut Budget) -> Vec<Row> {
    let urgency = |step: &StepView| match State::of(step, context.status) {
        State::Failed => 0,
        State::Running | State::Stopped => 1,
        _ => 2,
    };
    let mut order: Vec<usize> = (0..steps.len()).collect();
    order.sort_by_key(|index| urgency(&steps[*index]));
    let mut rows: Vec<(usize, Row)> =
        order.into_iter().map(|index| (index, Row::new(&steps[index], context, budget))).collect();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn culprit(steps: &[StepView]) -> Option<Culprit> {
    let failed = steps.iter().find(|step| step.error.is_some())?;
    Some(Culprit { ordinal: failed.ordinal, name: shown(&failed.name) })
}
