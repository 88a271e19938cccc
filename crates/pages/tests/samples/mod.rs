//! Pages to look at: ordinary builds, and builds of somebody who wants the page to be theirs.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use cofferdam_pages::{
    ApprovePage, ApprovedPage, Audience, BuildPage, BuildView, BuildsPage, ConnectionView,
    ErrorPage, LogLine, LogView, Pager, ProjectRef, ProjectView, ProjectsPage, SignInPage, Status,
    StepView, Viewer, step_log_path,
};

pub(crate) const PROJECT: &str = "4k8qz1w0xd";
pub(crate) const BUILD: &str = "9t2bmx40gwrc";

/// The moment at which all samples are looked at.
pub(crate) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap()
}

pub(crate) fn viewer() -> Viewer {
    Viewer::SignedIn { organization: "Example Works".into() }
}

fn project(name: &str) -> ProjectRef {
    ProjectRef { id: PROJECT.into(), name: name.into() }
}

/// Milliseconds after the start of the sample builds.
fn at(millis: i64) -> DateTime<Utc> {
    now() - TimeDelta::seconds(200) + TimeDelta::milliseconds(millis)
}

fn build(status: Status) -> BuildView {
    BuildView {
        id: BUILD.into(),
        status,
        error: None,
        command: Some("build".into()),
        created_at: at(-400),
        started_at: Some(at(0)),
        finished_at: Some(at(61_400)),
        cached_steps: 5,
        total_steps: 13,
        saved: Duration::from_millis(83_700),
    }
}

fn step(ordinal: u64, name: &str, from: i64, to: i64) -> StepView {
    StepView {
        ordinal,
        digest: format!("sha256:{:064x}", 0x9e37_79b9_u64 * (ordinal + 7)),
        name: name.into(),
        started_at: Some(at(from)),
        completed_at: Some(at(to)),
        cached: false,
        error: None,
        saved: Duration::ZERO,
        log: None,
        connections: Vec::new(),
    }
}

fn cached(ordinal: u64, name: &str, from: i64, saved: u64) -> StepView {
    let saved = Duration::from_millis(saved);
    StepView { cached: true, saved, ..step(ordinal, name, from, from + 2) }
}

fn log(from: i64, every: i64, text: &str) -> LogView {
    let line = |(index, line): (i64, &str)| {
        LogLine::from_bytes(Some(at(from + index * every)), line.as_bytes())
    };
    LogView {
        lines: (0..).zip(text.lines()).map(line).collect(),
        full: Some(step_log_path(PROJECT, BUILD, 9)),
        ..LogView::default()
    }
}

fn connection(host: &str, address: &str, allowed: bool, received: u64) -> ConnectionView {
    ConnectionView {
        protocol: if address.is_empty() { "dns" } else { "tcp" }.into(),
        host: host.into(),
        address: address.into(),
        port: if address.is_empty() { 53 } else { 443 },
        allowed,
        sent: received / 40,
        received,
        opened_at: at(11_200),
    }
}

const INSTALL: &str = "\u{1b}[1mnpm\u{1b}[0m \u{1b}[33mwarn\u{1b}[0m deprecated inflight@1.0.6: This module is not supported, and leaks memory. Do not use it.
\u{1b}[1mnpm\u{1b}[0m \u{1b}[33mwarn\u{1b}[0m deprecated glob@7.2.3: Glob versions prior to v9 are no longer supported
(#########.........) reify:lodash: timing\radded 412 packages, and audited 413 packages in 19s

68 packages are looking for funding
  run `npm fund` for details

found \u{1b}[32m\u{1b}[1m0\u{1b}[22m\u{1b}[39m vulnerabilities";

const TESTS: &str = "
> shop@2.4.1 test
> vitest run

 \u{1b}[7m\u{1b}[36m RUN \u{1b}[0m \u{1b}[36mv3.2.4\u{1b}[39m \u{1b}[90m/app\u{1b}[39m

 \u{1b}[32m✓\u{1b}[39m src/cart.test.ts \u{1b}[2m(14 tests)\u{1b}[22m\u{1b}[32m 42\u{1b}[2mms\u{1b}[22m\u{1b}[39m
 \u{1b}[32m✓\u{1b}[39m src/price.test.ts \u{1b}[2m(31 tests)\u{1b}[22m\u{1b}[33m 388\u{1b}[2mms\u{1b}[22m\u{1b}[39m
 \u{1b}[31m❯\u{1b}[39m src/checkout.test.ts \u{1b}[2m(9 tests | \u{1b}[22m\u{1b}[31m1 failed\u{1b}[39m\u{1b}[2m)\u{1b}[22m 112ms
\u{1b}[31m   \u{1b}[31m×\u{1b}[31m checkout > rounds half a cent to even\u{1b}[39m\u{1b}[2m 9ms\u{1b}[22m
\u{1b}[31m     → expected 10.13 to be 10.12 // Object.is equality\u{1b}[39m

\u{1b}[41m\u{1b}[1m FAIL \u{1b}[22m\u{1b}[49m src/checkout.test.ts \u{1b}[2m>\u{1b}[22m checkout \u{1b}[2m>\u{1b}[22m rounds half a cent to even
\u{1b}[31m\u{1b}[1mAssertionError\u{1b}[22m: expected 10.13 to be 10.12 // Object.is equality\u{1b}[39m

\u{1b}[32m- Expected\u{1b}[39m
\u{1b}[31m+ Received\u{1b}[39m

\u{1b}[36m \u{1b}[2m❯\u{1b}[22m src/checkout.test.ts:\u{1b}[2m88:31\u{1b}[22m\u{1b}[39m
    \u{1b}[90m 86|\u{1b}[39m   \u{1b}[35mconst\u{1b}[39m total \u{1b}[33m=\u{1b}[39m \u{1b}[34msum\u{1b}[39m(lines)
    \u{1b}[90m 87|\u{1b}[39m   \u{1b}[34mexpect\u{1b}[39m(\u{1b}[34mround\u{1b}[39m(total))\u{1b}[33m.\u{1b}[39m\u{1b}[34mtoBe\u{1b}[39m(\u{1b}[34m10.12\u{1b}[39m)
\u{1b}[2m Test Files \u{1b}[22m \u{1b}[1m\u{1b}[31m1 failed\u{1b}[39m\u{1b}[22m\u{1b}[2m | \u{1b}[22m\u{1b}[1m\u{1b}[32m2 passed\u{1b}[39m\u{1b}[22m\u{1b}[90m (3)\u{1b}[39m
\u{1b}[2m      Tests \u{1b}[22m \u{1b}[1m\u{1b}[31m1 failed\u{1b}[39m\u{1b}[22m\u{1b}[2m | \u{1b}[22m\u{1b}[1m\u{1b}[32m53 passed\u{1b}[39m\u{1b}[22m\u{1b}[90m (54)\u{1b}[39m";

fn steps() -> Vec<StepView> {
    let error = "process \"/bin/sh -c npm test\" did not complete successfully: exit code: 1";
    vec![
        step(0, "[internal] load build definition from Dockerfile", 0, 120),
        step(1, "[internal] load metadata for docker.io/library/node:22-slim", 130, 1_910),
        step(2, "[internal] load .dockerignore", 1_920, 1_990),
        step(3, "[internal] load build context", 2_000, 4_350),
        cached(
            4,
            "[base 1/3] FROM docker.io/library/node:22-slim@sha256:752ea8a2f758c34002a0461bd9f1cee4f9a3c36d48494586f60ffce1fc708e0e",
            2_010,
            12_400,
        ),
        cached(
            5,
            "[base 2/3] RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates tini",
            2_020,
            31_200,
        ),
        cached(6, "[base 3/3] WORKDIR /app", 2_030, 100),
        cached(7, "[deps 1/2] COPY package.json package-lock.json ./", 4_360, 0),
        StepView {
            log: Some(log(6_000, 2_900, INSTALL)),
            connections: vec![
                connection("registry.npmjs.org", "192.0.2.17", true, 31_400_000),
                connection("registry.npmjs.org", "192.0.2.18", true, 28_100_000),
                connection("registry.npmjs.org", "192.0.2.19", true, 8_230_000),
                connection("github.com", "198.51.100.4", true, 412_000),
                connection("telemetry.example.net", "", false, 0),
                connection("", "203.0.113.80", false, 0),
            ],
            ..step(8, "[deps 2/2] RUN npm ci --no-audit", 4_400, 26_100)
        },
        StepView {
            error: Some(error.into()),
            log: Some(log(42_300, 610, TESTS)),
            ..step(9, "[test 2/2] RUN npm test", 41_900, 60_800)
        },
        StepView {
            log: Some(log(
                26_500,
                900,
                "vite v7.1.3 building for production...\ntransforming...\n\u{1b}[32m✓\u{1b}[39m 1,204 modules transformed.",
            )),
            ..step(
                10,
                "[build 2/2] RUN npm run build -- --mode production --sourcemap --outDir /srv/www/static",
                26_200,
                47_300,
            )
        },
        StepView {
            completed_at: None,
            ..step(11, "[stage-4 3/4] RUN ./scripts/compress --brotli /srv/www", 47_400, 0)
        },
        StepView { started_at: None, completed_at: None, ..step(12, "exporting to image", 0, 0) },
    ]
}

fn page(status: Status) -> BuildPage {
    BuildPage {
        audience: Audience::Member(viewer()),
        project: project("shop-frontend"),
        build: build(status),
        steps: steps(),
        more_steps: false,
        connections: Vec::new(),
        refresh: true,
        now: now(),
    }
}

pub(crate) fn failed_build() -> BuildPage {
    let mut page = page(Status::Failed);
    page.build.error = Some("failed to solve: process \"/bin/sh -c npm test\" did not complete successfully: exit code: 1".into());
    page
}

pub(crate) fn successful_build() -> BuildPage {
    let mut page = page(Status::Success);
    page.steps.retain(|step| step.error.is_none());
    page.steps[10].completed_at = Some(at(59_000));
    page.steps[11].started_at = Some(at(59_100));
    page.steps[11].completed_at = Some(at(61_300));
    page.connections = vec![connection("mirror.example.org", "192.0.2.77", true, 1_900_000)];
    page
}

pub(crate) fn running_build() -> BuildPage {
    let mut page = page(Status::Running);
    page.build.finished_at = None;
    page.now = at(52_000);
    page.steps[9].error = None;
    page.steps[9].completed_at = None;
    page
}

pub(crate) fn shared_build() -> BuildPage {
    BuildPage { audience: Audience::Shared, ..failed_build() }
}

pub(crate) fn empty_build() -> BuildPage {
    let mut page = page(Status::Running);
    page.steps.clear();
    page.build = BuildView {
        finished_at: None,
        started_at: None,
        cached_steps: 0,
        total_steps: 0,
        saved: Duration::ZERO,
        ..page.build
    };
    page
}

pub(crate) fn projects() -> ProjectsPage {
    let row = |(name, days): (&str, i64)| ProjectView {
        project: project(name),
        region: "us-east-1".into(),
        created_at: now() - TimeDelta::days(days) - TimeDelta::hours(3),
    };
    let names = [("shop-frontend", 0), ("shop-backend", 12), ("etl", 29), ("документация", 400)];
    let pager = Pager { continued: true, next: Some("eyJ2IjoxfQ".into()) };
    ProjectsPage { viewer: viewer(), projects: names.map(row).to_vec(), pager, now: now() }
}

pub(crate) fn builds() -> BuildsPage {
    let statuses =
        [Status::Running, Status::Success, Status::Failed, Status::Canceled, Status::Error];
    let row = |index: i64| BuildView {
        id: format!("9t2bmx40g{index:03}"),
        created_at: at(0) - TimeDelta::minutes(index * index * 7),
        started_at: Some(at(0) - TimeDelta::minutes(index * index * 7)),
        finished_at: (index > 0)
            .then(|| at(61_400 * (index % 4 + 1)) - TimeDelta::minutes(index * index * 7)),
        cached_steps: (index * 5 % 14).unsigned_abs(),
        saved: Duration::from_millis((index * 13_337 % 90_000).unsigned_abs()),
        command: Some(if index % 3 == 1 { "bake" } else { "build" }.into()),
        ..build(if index == 0 {
            Status::Running
        } else if index % 4 == 2 {
            statuses[(index % 5).unsigned_abs() as usize]
        } else {
            Status::Success
        })
    };
    BuildsPage {
        viewer: viewer(),
        project: project("shop-frontend"),
        builds: (0..20).map(row).collect(),
        pager: Pager { continued: false, next: Some("eyJ2IjoxfQ".into()) },
        now: now(),
    }
}

pub(crate) fn sign_in() -> SignInPage {
    SignInPage { next: Some("/projects/4k8qz1w0xd".into()), error: None }
}

pub(crate) fn approve() -> ApprovePage {
    ApprovePage {
        viewer: Viewer::SignedOut,
        id: "wq7m4hc0d2xk".into(),
        error: Some("That is no organization token of this server.".into()),
    }
}

pub(crate) fn approved() -> ApprovedPage {
    ApprovedPage { viewer: Viewer::SignedOut, organization: "Example Works".into() }
}

pub(crate) fn failure(status: u16, viewer: Viewer) -> ErrorPage {
    ErrorPage { viewer, status, message: None, path: Some("/projects/4k8qz1w0xd".into()) }
}

/// Text that tries to become markup in every place where text can stand, to reorder what is around
/// it, and to reach the browser as raw control sequences. Anything it loads, it loads from
/// `/canary`, which this origin would be allowed to.
pub(crate) const HOSTILE: &str = "</title></pre></svg></style><script>document.title='OWNED';new Image().src='/canary/script'</script>\
<img src=/canary/img onerror=\"document.title='OWNED'\"><svg onload=\"fetch('/canary/svg')\"><iframe src=/canary/frame></iframe>\
<link rel=stylesheet href=/canary/css><meta http-equiv=refresh content='0;url=/canary/meta'><base href=/canary/>\
<form action=/canary/form><input autofocus onfocus=\"fetch('/canary/focus')\"></form><style>@import '/canary/import';</style>\
\" onmouseover=\"alert(1)\" style=\"color:red\" x=' y=` {{ 7*7 }} {% raw %} &lt;script&gt; --><!--<![CDATA[ \
\u{202e}gnp.exe\u{202c} \u{2066}x\u{2069} \0 \u{feff} \u{1b}]0;<script>a()</script>\u{7}\u{1b}]8;;javascript:alert(1)\u{1b}\\link\u{1b}]8;;\u{1b}\\ \
\u{1b}P<img src=/canary/dcs>\u{1b}\\ \u{1b}[31\" onclick=\"x\"m \u{1b}[31;<b>mred \u{1b}]0;<img src=/canary/osc>";

/// The hostile text in a shorter form for places that are cut short.
pub(crate) const HOSTILE_SHORT: &str =
    "<img src=/canary/s onerror=document.title='OWNED'>\"'><script>1</script>\u{202e}";

/// A build in which everything that its author chooses is hostile.
pub(crate) fn hostile_build(audience: Audience) -> BuildPage {
    let mut page = failed_build();
    page.audience = audience;
    page.project.name = HOSTILE.into();
    page.build.error = Some(HOSTILE.into());
    page.build.command = Some(HOSTILE_SHORT.into());
    let raw = b"\xff\xfe<script>document.title='OWNED'</script>\xc3\x28\x80";
    for (index, step) in page.steps.iter_mut().enumerate() {
        let text = if index % 2 == 0 { HOSTILE } else { HOSTILE_SHORT };
        step.name = format!("[{text}] RUN {text}");
        step.digest = HOSTILE_SHORT.into();
        step.error = (index % 3 == 0).then(|| HOSTILE.to_owned());
        step.connections = vec![ConnectionView {
            protocol: HOSTILE_SHORT.into(),
            ..connection(HOSTILE, HOSTILE_SHORT, index % 2 == 0, 5)
        }];
        let mut log = LogView {
            full: Some(step_log_path(HOSTILE_SHORT, HOSTILE, 1)),
            more: true,
            before: 3,
            ..LogView::default()
        };
        log.lines = [HOSTILE, HOSTILE_SHORT, &"<b>".repeat(5_000), &"\u{301}".repeat(3_000)]
            .map(|text| LogLine::from_bytes(None, text.as_bytes()))
            .to_vec();
        log.lines.push(LogLine::from_bytes(Some(now()), raw));
        step.log = Some(log);
    }
    page.connections = vec![
        connection(HOSTILE, HOSTILE, false, u64::MAX),
        connection("", HOSTILE_SHORT, true, u64::MAX),
    ];
    page
}
