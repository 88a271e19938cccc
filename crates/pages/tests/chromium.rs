//! Pages in a real browser: what a build writes stays text, the policy stops nothing of ours, and
//! the pages fit their windows.
#![allow(clippy::unwrap_used, missing_docs)]

mod browser;
mod samples;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use browser::{Guard, Site, load, picture, visit};
use cofferdam_pages::{
    ApprovePage, ApprovedPage, Audience, ErrorPage, ProjectRef, SignInPage, Viewer,
};
use samples::{HOSTILE, HOSTILE_SHORT};

/// Every element that a page may have.
const ELEMENTS: &str = " html head meta title link body a header nav main section div p span h1 h2 \
    dl dt dd ol li details summary pre code b strong bdi time table caption thead tbody tr th td \
    form label input button svg defs symbol g path line circle rect text use ";

/// Every attribute that an element may have.
const ATTRIBUTES: &str = " lang charset name content http-equiv rel href class id aria-label \
    aria-labelledby aria-hidden aria-describedby role tabindex title datetime scope method action \
    type value for autocomplete autocapitalize spellcheck maxlength required autofocus open width \
    height viewbox preserveaspectratio overflow transform x y x1 x2 y1 y2 dy cx cy r rx d text-anchor \
    data-n data-t hidden ";

/// An element of a document as the browser wrote it down again.
struct Element {
    name: String,
    attributes: Vec<(String, String)>,
}

/// The elements of a document. In what the browser writes, `<` in text is always escaped and
/// values are always in double quotes.
fn elements(dom: &str) -> Vec<Element> {
    let mut elements = Vec::new();
    let mut rest = dom;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if rest.starts_with(['/', '!']) {
            continue;
        }
        let name_end = rest.find([' ', '>']).unwrap();
        let name = rest[..name_end].to_lowercase();
        rest = &rest[name_end..];
        let mut attributes = Vec::new();
        while let Some(after) = rest.strip_prefix(' ') {
            let (attribute, value) = after.split_once("=\"").unwrap();
            let (value, after) = value.split_once('"').unwrap();
            attributes.push((attribute.to_lowercase(), value.to_owned()));
            rest = after;
        }
        elements.push(Element { name, attributes });
    }
    elements
}

/// Asserts that a document has nothing in it but what our templates put there.
fn assert_ours(what: &str, dom: &str) {
    for Element { name, attributes } in elements(dom) {
        assert!(ELEMENTS.contains(&format!(" {name} ")), "{what}: <{name}> in\n{dom}");
        for (attribute, value) in attributes {
            let known = ATTRIBUTES.contains(&format!(" {attribute} "));
            assert!(known, "{what}: {attribute} of <{name}> in\n{dom}");
            let local = value.starts_with(['#', '?'])
                || (value.starts_with('/') && !value.starts_with("//"));
            let link = matches!(attribute.as_str(), "href" | "action");
            assert!(!link || local, "{what}: {attribute}={value}");
            assert!(!value.contains("canary") || attribute != "http-equiv", "{what}");
        }
    }
    assert_eq!(dom.matches("<link ").count(), 2, "{what}: the icon and the stylesheet");
    for hidden in ['\u{202e}', '\u{2066}', '\u{feff}', '\u{1b}', '\u{9b}', '\0'] {
        assert!(!dom.contains(hidden), "{what}: {hidden:?}");
    }
}

/// Loads a page with the real headers and asserts that nothing was run, fetched or refused.
fn assert_inert(site: &Site, name: &str, html: &str) -> String {
    let path = format!("/{name}");
    site.put(&path, Guard::Full, html);
    let before = site.requests().len();
    let seen = load(&site.url(&path), 3_000);
    assert!(seen.dom.contains("</main>"), "{name} did not load:\n{}", seen.dom);
    assert!(!seen.dom.contains("<title>OWNED"), "{name}: a script ran");
    assert_eq!(seen.console, [""; 0], "{name}: something was refused or failed");
    assert_ours(name, &seen.dom);
    let requests = &site.requests()[before..];
    let expected = |request: &str| request == path || request.starts_with("/assets/");
    assert!(requests.iter().all(|request| expected(request)), "{name}: {requests:?}");
    let styled = requests.iter().any(|request| request.starts_with("/assets/style."));
    assert!(styled, "{name}: no stylesheet in {requests:?}");
    seen.dom
}

/// The checks below are worth something only if they notice what they look for.
#[test]
fn the_browser_would_run_and_report() {
    let site = Site::new();
    let hostile = format!("<!doctype html><title>x</title><main>{HOSTILE_SHORT}</main>");
    let script = "<!doctype html><title>x</title><script>document.title='OWNED'</script>\
                  <img src=/canary/img><p style=\"color:red\">";
    site.put("/bare", Guard::None, script);
    assert!(load(&site.url("/bare"), 1_000).dom.contains("<title>OWNED"));
    assert!(site.requests().contains(&"/canary/img".to_owned()));

    site.put("/guarded", Guard::Full, script);
    let seen = load(&site.url("/guarded"), 1_000);
    assert!(!seen.dom.contains("<title>OWNED"));
    let refused = |what: &str| seen.console.iter().any(|line| line.contains(what));
    assert!(refused("inline script") && refused("inline style"), "{:?}", seen.console);

    site.put("/injected", Guard::None, &hostile);
    let dom = load(&site.url("/injected"), 1_000).dom;
    assert!(elements(&dom).iter().any(|element| element.name == "img"));
    assert!(elements(&dom).iter().any(|element| element.name == "script"));
}

#[test]
fn a_hostile_build_is_only_text() {
    let site = Site::new();
    let member =
        samples::hostile_build(Audience::Member(Viewer::SignedIn { organization: HOSTILE.into() }));
    let dom = assert_inert(&site, "hostile", &member.render());
    assert!(dom.contains("<title>Failed · "));
    assert!(dom.contains(r#"<span class="ctl">U+202E</span>"#));
    // Everything that was written can be read.
    assert!(dom.contains("&lt;img src=/canary/dcs&gt;") || dom.contains("link"));
    let dom = assert_inert(&site, "shared", &samples::hostile_build(Audience::Shared).render());
    assert!(!dom.contains("<nav") && !dom.contains(samples::PROJECT));
}

#[test]
fn hostile_names_are_only_text_everywhere() {
    let site = Site::new();
    let viewer = || Viewer::SignedIn { organization: HOSTILE.into() };
    let mut projects = samples::projects();
    projects.viewer = viewer();
    projects.pager.next = Some(HOSTILE.into());
    for row in &mut projects.projects {
        row.project = ProjectRef { id: HOSTILE_SHORT.into(), name: HOSTILE.into() };
        row.region = HOSTILE_SHORT.into();
    }
    assert_inert(&site, "projects", &projects.render());

    let mut builds = samples::builds();
    builds.viewer = viewer();
    builds.project = ProjectRef { id: HOSTILE.into(), name: HOSTILE.into() };
    builds.pager.next = Some(HOSTILE.into());
    for build in &mut builds.builds {
        build.id = HOSTILE_SHORT.into();
        build.command = Some(HOSTILE.into());
    }
    assert_inert(&site, "builds", &builds.render());

    // A local path, as the server sees to.
    let next = ("/\"><script>document.title='OWNED'</script><img src=/canary/next>").to_owned();
    let sign_in = SignInPage { next: Some(next), error: Some(HOSTILE.into()) };
    assert_inert(&site, "sign-in", &sign_in.render());
    let approve = ApprovePage { viewer: viewer(), id: HOSTILE.into(), error: Some(HOSTILE.into()) };
    assert_inert(&site, "approve", &approve.render());
    let approved = ApprovedPage { viewer: viewer(), organization: HOSTILE.into() };
    assert_inert(&site, "approved", &approved.render());
    let failure = ErrorPage {
        viewer: Viewer::SignedOut,
        status: 404,
        message: Some(HOSTILE.into()),
        path: Some(HOSTILE.into()),
    };
    assert_inert(&site, "failure", &failure.render());
}

#[test]
fn a_running_build_is_followed_until_held() {
    let site = Site::new();
    let mut running = samples::running_build();
    site.put("/followed", Guard::Full, &running.render());
    let loads = |path: &str| site.requests().iter().filter(|request| *request == path).count();
    visit(&site.url("/followed"), Duration::from_secs(60), || loads("/followed") > 1);
    assert!(loads("/followed") > 1, "{:?}", site.requests());
    running.refresh = false;
    site.put("/held", Guard::Full, &running.render());
    visit(&site.url("/held"), Duration::from_secs(12), || loads("/held") > 1);
    assert_eq!(loads("/held"), 1);
}

/// Pages by name, and how high a picture of them is.
fn gallery() -> Vec<(&'static str, u32, String)> {
    let hostile = samples::hostile_build(Audience::Member(samples::viewer()));
    let opened = samples::successful_build().render().replace("<details>", "<details open>");
    vec![
        ("failed", 1_500, samples::failed_build().render()),
        ("success", 900, samples::successful_build().render()),
        ("opened", 2_400, opened),
        ("running", 1_500, samples::running_build().render()),
        ("shared", 900, samples::shared_build().render()),
        ("empty", 600, samples::empty_build().render()),
        ("hostile", 2_400, hostile.render()),
        ("projects", 600, samples::projects().render()),
        ("builds", 900, samples::builds().render()),
        ("sign-in", 600, samples::sign_in().render()),
        ("approve", 700, samples::approve().render()),
        ("approved", 600, samples::approved().render()),
        ("not-found", 600, samples::failure(404, Viewer::SignedOut).render()),
        ("gone", 600, samples::failure(410, samples::viewer()).render()),
    ]
}

/// A page that measures itself, with all its details open: its name, the width of its window and
/// that of its content are added to the title of the page around it. That takes a script, so it is
/// served without the policy.
fn measuring(name: &str, html: &str) -> String {
    let script = format!(
        "<script>for (const d of document.querySelectorAll('details')) d.open = true;\
         const e = document.documentElement;\
         top.document.title += ' {name}:' + innerWidth + ':' + e.scrollWidth;</script></body>"
    );
    html.replace("</body>", &script)
}

fn frame_of(path: &str, width: u32, height: u32) -> String {
    format!("<iframe src=\"{path}\" width={width} height={height} frameborder=0></iframe>")
}

#[test]
fn pages_are_no_wider_than_their_window() {
    let site = Site::new();
    let mut frames = "<!doctype html><title></title>".to_owned();
    for (name, _, html) in gallery() {
        let path = format!("/measured/{name}");
        site.put(&path, Guard::None, &measuring(name, &html));
        frames += &frame_of(&path, 1_280, 800);
        frames += &frame_of(&path, 390, 800);
    }
    site.put("/frames", Guard::None, &frames);
    let dom = load(&site.url("/frames"), 5_000).dom;
    let title = dom.split_once("<title>").unwrap().1.split_once("</title>").unwrap().0;
    // Running builds load again and measure again.
    let measured: BTreeSet<&str> = title.split_whitespace().collect();
    assert_eq!(measured.len(), gallery().len() * 2, "{title}");
    for measure in measured {
        let parts: Vec<&str> = measure.split(':').collect();
        let (window, content) =
            (parts[1].parse::<u32>().unwrap(), parts[2].parse::<u32>().unwrap());
        assert!(window == 1_280 || window == 390, "{measure}");
        assert!(content <= window, "{measure}: the content is wider than the window");
    }
}

/// Pictures of the pages at 1280 and 390 pixels, in `target/tmp/pages`. With names of the gallery
/// (or `all`) in `PICTURES` those pages in light and dark, to look at; without, a failed build.
#[test]
fn pages_can_be_painted() {
    let wanted = std::env::var("PICTURES").unwrap_or_else(|_| "failed".to_owned());
    let all = wanted == "all";
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("pages");
    std::fs::create_dir_all(&folder).unwrap();
    let site = Site::new();
    for (name, height, html) in gallery() {
        if !all && !wanted.split(',').any(|wanted| wanted == name) {
            continue;
        }
        let path = format!("/{name}");
        site.put(&path, Guard::Full, &html);
        site.put("/framed", Guard::Framed, &html);
        site.put(
            "/narrow",
            Guard::None,
            &format!(
                "<!doctype html><body style=\"margin:0\">{}",
                frame_of("/framed", 390, height)
            ),
        );
        for dark in [false, true].into_iter().take(if wanted == "failed" { 1 } else { 2 }) {
            let scheme = if dark { "dark" } else { "light" };
            for (url, width) in [(site.url(&path), 1_280), (site.url("/narrow"), 390)] {
                let file = folder.join(format!("{name}-{width}-{scheme}.png"));
                let _ = std::fs::remove_file(&file);
                picture(&url, (width.max(500), height), dark, &file);
                assert_painted(&file, (width.max(500), height));
            }
        }
    }
}

/// Asserts that a file is a picture of that size with something on it: a page of one colour would
/// compress to next to nothing.
fn assert_painted(file: &std::path::Path, size: (u32, u32)) {
    let png = std::fs::read(file).unwrap();
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "{}", file.display());
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
    assert_eq!((number(16), number(20)), size, "{}", file.display());
    assert!(png.len() > 8_000, "{}: {} bytes", file.display(), png.len());
}
