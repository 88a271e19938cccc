//! All figures.

use metrics::Unit;

use super::figure::Figure;

/// Declares figures, and the list of them: none can be missing there.
macro_rules! figures {
    ($($name:ident = $figure:expr;)*) => {
        $(pub(crate) static $name: Figure = $figure;)*
        /// Every figure, in the order of the documentation.
        pub(crate) static FIGURES: &[&Figure] = &[$(&$name),*];
    };
}

/// Steps: from what the cache answers to what compiles a browser.
const STEP: &[f64] =
    &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Builds.
const BUILD: &[f64] =
    &[0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14400.0];
/// Waiting for a place, and starts of builders: of processes and of virtual machines.
const WAIT: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// How builds end, as the API has it.
const STATUSES: &[&str] = &["success", "failed", "canceled", "error"];
/// How steps end.
const RESULTS: &[&str] = &["cached", "executed", "failed"];
/// Codes of the API.
const CODES: &[&str] = &[
    "ok",
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

figures! {
    BUILDS_RUNNING = Figure::gauge("cofferdam_builds_running", Unit::Count, "builds that have not ended");
    BUILDS = Figure::gauge(
        "cofferdam_builds", Unit::Count,
        "the same by whether nobody has asked for their builder yet, they wait for a place for it, it is being started, or they have it",
    ).by("state", &["created", "queued", "starting", "running"]);
    BUILDS_BEGUN = Figure::counter("cofferdam_builds_begun_total", Unit::Count, "builds that began");
    BUILDS_ENDED = Figure::counter("cofferdam_builds_ended_total", Unit::Count, "builds that ended, by status")
        .by("status", STATUSES);
    BUILD_SECONDS = Figure::seconds("cofferdam_build_seconds", BUILD, "builds from beginning to end, by status")
        .by("status", STATUSES);
    QUEUE_LENGTH = Figure::gauge("cofferdam_queue_length", Unit::Count, "requests for a builder that wait for a place");
    QUEUE_SECONDS = Figure::seconds(
        "cofferdam_queue_seconds", WAIT, "how long a place for a new builder was waited for; zero where one was free",
    );
    BUILDERS = Figure::gauge("cofferdam_builders_running", Unit::Count, "builders that run");
    BUILDER_STARTS = Figure::counter("cofferdam_builder_starts_total", Unit::Count, "starts of builders, by result")
        .by("result", &["started", "failed"]);
    BUILDER_START_SECONDS = Figure::seconds(
        "cofferdam_builder_start_seconds", WAIT, "from the start of a builder to its first answer",
    );
    BUILDER_ENDS = Figure::counter(
        "cofferdam_builder_ends_total", Unit::Count, "builders that ended, by whether the server told them to",
    ).by("cause", &["told", "died"]);
    CONNECTIONS = Figure::counter(
        "cofferdam_builder_connections_total", Unit::Count, "connections of clients to builders",
    );
    STEP_SECONDS = Figure::seconds(
        "cofferdam_step_seconds", STEP, "steps from beginning to end, each once in a build, by result",
    ).by("result", RESULTS);
    STEPS = Figure::counter("cofferdam_steps_total", Unit::Count, "steps that ended, each once in a build, by result")
        .by("result", RESULTS);
    CACHE_LOOKUPS = Figure::counter(
        "cofferdam_cache_lookups_total", Unit::Count, "steps by whether the cache answered them",
    ).by("result", &["hit", "miss"]);
    CACHE_SAVED = Figure::seconds(
        "cofferdam_cache_saved_seconds", STEP, "how long steps had taken that the cache answered",
    );
    CACHE_BYTES = Figure::gauge(
        "cofferdam_cache_bytes", Unit::Bytes, "bytes of the caches of all projects, as last measured",
    );
    EGRESS_CONNECTIONS = Figure::counter(
        "cofferdam_egress_connections_total", Unit::Count, "connections of builds to the network, by what the policy said",
    ).by("verdict", &["allowed", "refused"]);
    EGRESS_BYTES = Figure::counter("cofferdam_egress_bytes_total", Unit::Bytes, "bytes between builds and the network")
        .by("direction", &["sent", "received"]);
    REGISTRY_BYTES = Figure::counter("cofferdam_registry_bytes_total", Unit::Bytes, "bytes of requests to the registry and of its answers")
        .by("direction", &["received", "sent"]);
    CALLS = Figure::counter(
        "cofferdam_api_calls_total", Unit::Count, "calls of the API by code; a stream by how it began",
    ).by("code", CODES);
    RESPONSES = Figure::counter(
        "cofferdam_http_responses_total", Unit::Count, "answers of the port to HTTP, by class of status",
    ).by("status", &["1xx", "2xx", "3xx", "4xx", "5xx"]);
    ERRORS = Figure::counter(
        "cofferdam_errors_total", Unit::Count,
        "trouble that is the server's own: a builder cannot be had, a builder cannot be reached, a build lost its builder or its client, a builder's report is incomplete, the end of a build is not recorded at once, the records fail, a connection is not accepted, a TLS handshake fails",
    ).by("kind", &["builder", "unreachable", "lost", "report", "end", "records", "accept", "tls"]);
    PROCESS_CPU = Figure::counter(
        "process_cpu_seconds_total", Unit::Seconds, "processor time of the server itself, in whole seconds",
    );
    PROCESS_MEMORY = Figure::gauge("process_resident_memory_bytes", Unit::Bytes, "memory of the server itself");
    PROCESS_FILES = Figure::gauge("process_open_fds", Unit::Count, "descriptors that the server has open");
    PROCESS_THREADS = Figure::gauge("process_threads", Unit::Count, "threads of the server");
    PROCESS_START = Figure::gauge("process_start_time_seconds", Unit::Seconds, "when the server began, in seconds since 1970");
}
