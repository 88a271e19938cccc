//! What a step connected to: kept in the builder's log and for the server, however the step ends.

use std::sync::Arc;

use cofferdam_egress::{Attachment, Connection, StepRecord};
use cofferdam_solver::{LogStream, Step};

use crate::context::Context;
use crate::serving::{Scope, ServedSolve};

/// A step on the network. Dropping it, as happens to a step that nobody wants any more, still records what there was.
pub(crate) struct Recording {
    parts: Option<Parts>,
}

struct Parts {
    context: Arc<Context>,
    step: Step,
    attachment: Attachment,
    /// Solves that wanted the step when it began: they have let go of one that was cancelled.
    solves: Vec<Arc<ServedSolve>>,
}

impl Recording {
    /// Begins with the step.
    pub(crate) fn begin(context: &Arc<Context>, step: &Step, attachment: Attachment) -> Self {
        let solves = solves(context, step);
        for solve in &solves {
            solve.expect_record();
        }
        let (context, step) = (Arc::clone(context), step.clone());
        Self { parts: Some(Parts { context, step, attachment, solves }) }
    }

    /// Ends with the step: waits for the last connections and keeps all.
    pub(crate) async fn finish(mut self) {
        if let Some(parts) = self.parts.take() {
            parts.finish().await;
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let (Some(parts), Ok(runtime)) =
            (self.parts.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(parts.finish());
        }
    }
}

impl Parts {
    async fn finish(self) {
        let Self { context, step, attachment, solves: expected } = self;
        let jobs = step.jobs();
        let record = attachment.finish().await;
        let name = step.digest.to_string();
        let late = solves(&context, &step);
        for solve in &expected {
            solve.add_record(&name, &record, true);
        }
        let known = |solve: &Arc<ServedSolve>| expected.iter().any(|one| Arc::ptr_eq(one, solve));
        for solve in late.iter().filter(|solve| !known(solve)) {
            solve.add_record(&name, &record, false);
        }
        // A step that several builds wanted ran for the one that came first.
        log(jobs.first().map_or("", |job| &**job), &step, &record);
    }
}

fn solves(context: &Context, step: &Step) -> Vec<Arc<ServedSolve>> {
    context.builds_of(step).into_iter().filter_map(|build| build.solve).collect()
}

/// Writes a record into the builder's log, and tells the step's reader what the policy refused: a program's own "connection
/// refused" does not say why.
fn log(job: &str, step: &Step, record: &StepRecord) {
    for connection in &record.connections {
        note(job, &step.digest.to_string(), connection);
        if connection.denied() {
            let name = connection.name.as_deref().unwrap_or("-");
            let (address, port, rule) =
                (connection.address, connection.port, connection.verdict.rule());
            let line = format!("egress policy refused {name} ({address} port {port}): {rule}\n");
            step.progress.log(LogStream::Stderr, line);
        }
    }
}

/// Writes one connection into the builder's log.
pub(crate) fn note(job: &str, step: &str, connection: &Connection) {
    tracing::info!(
        build = Scope::build_of(job),
        step,
        name = connection.name.as_deref().unwrap_or("-"),
        address = %connection.address,
        port = connection.port,
        up = connection.bytes_up,
        down = connection.bytes_down,
        denied = connection.denied(),
        rule = connection.verdict.rule(),
        "connection"
    );
}
