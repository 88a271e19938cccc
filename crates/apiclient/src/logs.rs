//! What a step wrote, also while it still writes.

use chrono::{DateTime, Utc};
use cofferdam_wire::depot::build::v1 as wire;
use serde::Serialize;

use crate::client::ApiClient;
use crate::error::ApiError;
use crate::page::{Page, PageRequest};
use crate::time;

/// Lines asked for at once.
const LINES: i32 = 1000;

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// When it was written.
    pub at: Option<DateTime<Utc>>,
    /// Its text, with whatever the step wrote.
    pub message: String,
}

/// How far a log has been read. The list's end has no token, so the last part is read again and what is known of it skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogCursor {
    token: Option<String>,
    seen: usize,
}

impl LogCursor {
    /// Takes a part in: gives what is new of it.
    fn take(&mut self, page: Page<LogLine>) -> (Vec<LogLine>, bool) {
        let known = self.seen.min(page.items.len());
        let count = page.items.len();
        let new = page.items.into_iter().skip(known).collect();
        let more = page.next.is_some();
        if more {
            *self = Self { token: page.next, seen: 0 };
        } else {
            self.seen = count;
        }
        (new, more)
    }
}

impl ApiClient {
    /// The lines after `cursor`, which moves on; and whether there are more already.
    ///
    /// # Errors
    /// See [`ApiError`].
    pub async fn log_lines(
        &self,
        project: &str,
        build: &str,
        step: &str,
        cursor: &mut LogCursor,
    ) -> Result<(Vec<LogLine>, bool), ApiError> {
        let page = PageRequest::at(cursor.token.as_deref()).of(LINES);
        let request = wire::GetBuildStepLogsRequest {
            project_id: project.to_owned(),
            build_id: build.to_owned(),
            build_step_digest: step.to_owned(),
            page_size: page.size,
            page_token: page.token,
            ..Default::default()
        };
        let call =
            self.step_service().get_build_step_logs_with_options(request, Self::quick()).await;
        let answer = call.map_err(|error| self.failed(error))?.into_owned();
        let lines = answer
            .logs
            .into_iter()
            .map(|line| LogLine { at: time::read(&line.timestamp), message: line.message });
        Ok(cursor.take(Page::new(lines.collect(), answer.next_page_token)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lines: &[&str], next: Option<&str>) -> Page<LogLine> {
        let line = |text: &&str| LogLine { at: None, message: (*text).to_owned() };
        Page::new(lines.iter().map(line).collect(), next.map(str::to_owned))
    }

    fn texts((lines, more): (Vec<LogLine>, bool)) -> (Vec<String>, bool) {
        (lines.into_iter().map(|line| line.message).collect(), more)
    }

    #[test]
    fn a_growing_log_is_read_once() {
        let mut cursor = LogCursor::default();
        assert_eq!(texts(cursor.take(page(&["a"], None))), (vec!["a".to_owned()], false));
        assert_eq!(texts(cursor.take(page(&["a"], Some("")))), (vec![], false));
        let grown = texts(cursor.take(page(&["a", "b", "c"], Some("t"))));
        assert_eq!(grown, (vec!["b".to_owned(), "c".to_owned()], true));
        assert_eq!(cursor, LogCursor { token: Some("t".to_owned()), seen: 0 });
        assert_eq!(texts(cursor.take(page(&["d"], None))), (vec!["d".to_owned()], false));
        assert_eq!(texts(cursor.take(page(&[], None))), (vec![], false));
    }
}
