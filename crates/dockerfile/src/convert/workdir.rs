//! `WORKDIR`: enters a directory and makes it.

use buffa::MessageField;
use cofferdam_wire::pb;

use super::Converter;
use super::copy::owner;
use super::dispatch::Step;
use super::naming::display;
use super::plan::{Action, Info};
use super::stage::Stage;
use crate::lint::Finding;
use crate::paths;

const NANOSECONDS: i64 = 1_000_000_000;

impl Stage {
    /// Makes `path` the working directory; relative ones start at the old one.
    pub(super) fn enter(&mut self, path: &str) {
        let directory = paths::absolute(&self.image.config.working_dir, path, false);
        self.image.config.working_dir.clone_from(&directory);
        self.state.dir = directory;
    }
}

impl Converter<'_> {
    pub(super) fn workdir(&mut self, stage: &mut Stage, path: &str, step: &mut Step<'_>) {
        if !stage.seen.workdir && !path.starts_with('/') {
            step.report(&Finding::WorkdirRelativePath { path });
        }
        stage.seen.workdir = true;
        stage.enter(path);
        let directory = stage.state.dir.clone();
        if directory != "/" {
            self.make_directory(stage, &directory, step);
        }
        self.commit(stage, &format!("WORKDIR {directory}"), directory != "/");
    }

    fn make_directory(&mut self, stage: &mut Stage, directory: &str, step: &Step<'_>) {
        let user = &stage.image.config.user;
        let owner = if user.is_empty() { MessageField::none() } else { owner(user).into() };
        let action = pb::FileActionMkDir {
            path: paths::clean(directory),
            mode: 0o755,
            makeParents: true,
            owner,
            timestamp: self.epoch.map_or(-1, |epoch| epoch.saturating_mul(NANOSECONDS)),
            ..Default::default()
        };
        let env = stage.state.env.clone();
        let name = display(&self.expander, &step.instruction.text, &env);
        let info = Info {
            name: Some(self.prefix(stage) + &name),
            lines: Some(step.instruction.lines),
            ..Info::default()
        };
        let action = Action { source: None, action: action.into() };
        stage.state.root = Some(self.plan.file(stage.state.root, vec![action], info));
    }

    /// The next number of the stage in brackets, with the platform when there are several.
    pub(super) fn prefix(&self, stage: &mut Stage) -> String {
        let platform = stage.platform();
        let shown = self.request.contexts.options.multi_platform.then_some(&platform);
        let env = stage.state.env.clone();
        stage.next_prefix(shown, &env)
    }
}
