//! A person with a browser that knows no JavaScript: reads a page, fills in its form, sends it, keeps cookies.

use cofferdam_tests::http::{Response, request};

/// A browser.
#[derive(Debug, Default)]
pub(crate) struct Browser {
    cookies: Vec<String>,
}

/// A form as a page shows it.
#[derive(Debug)]
struct Form {
    action: String,
    fields: Vec<(String, String)>,
}

impl Browser {
    /// Opens `url`, then fills in and sends every form that comes up and asks for a token; other fields keep what the page put
    /// in them. Gives the page after the last form.
    pub(crate) fn agree(&mut self, url: &str, token: &str) -> String {
        let mut at = url.to_owned();
        let mut page = self.open(&mut at);
        // A page that is not for everybody has a way to sign in and come back.
        if let Some(sign_in) = page.split("href=\"").find(|link| link.starts_with("/login?next=")) {
            at = absolute(&at, sign_in.split('"').next().unwrap());
            page = self.open(&mut at);
        }
        for _ in 0..4 {
            let Some(form) = form(&page) else { return page };
            let body: Vec<String> = form
                .fields
                .iter()
                .map(|(name, value)| {
                    let value = if name == "token" { token } else { value };
                    format!("{name}={}", encode(value))
                })
                .collect();
            at = absolute(&at, &form.action);
            page = self.send(&mut at, &body.join("&"));
        }
        panic!("forms without end; the last page:\n{page}");
    }

    fn open(&mut self, at: &mut String) -> String {
        let response = self.ask("GET", at, "");
        self.follow(at, response)
    }

    fn send(&mut self, at: &mut String, body: &str) -> String {
        let response = self.ask("POST", at, body);
        self.follow(at, response)
    }

    fn follow(&mut self, at: &mut String, mut response: Response) -> String {
        for _ in 0..5 {
            if !(300..400).contains(&response.status) {
                let page = String::from_utf8_lossy(&response.body).into_owned();
                assert!(
                    response.status < 400 || response.status == 401,
                    "{at}: {}\n{page}",
                    response.status
                );
                return page;
            }
            *at = absolute(at, response.header("location").unwrap());
            response = self.ask("GET", at, "");
        }
        panic!("{at}: redirects without end");
    }

    fn ask(&mut self, method: &str, url: &str, body: &str) -> Response {
        let cookies = self.cookies.join("; ");
        let origin: String = url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
        let mut headers = vec![("Origin", &*origin), ("Accept", "text/html")];
        if !cookies.is_empty() {
            headers.push(("Cookie", &cookies));
        }
        if method == "POST" {
            headers.push(("Content-Type", "application/x-www-form-urlencoded"));
        }
        let response = request(method, url, &headers, body.as_bytes());
        for (name, value) in &response.headers {
            if name == "set-cookie" {
                self.cookies.push(value.split(';').next().unwrap().to_owned());
            }
        }
        response
    }
}

/// The first form of a page that is sent by POST and has a field for a token.
fn form(page: &str) -> Option<Form> {
    let forms = page.match_indices("<form").map(|(at, _)| read_form(&page[at..]));
    forms.flatten().find(|form| form.fields.iter().any(|(name, _)| name == "token"))
}

fn read_form(start: &str) -> Option<Form> {
    attribute(tag(start), "method").filter(|method| method.eq_ignore_ascii_case("post"))?;
    let inside = &start[..start.find("</form>").unwrap_or(start.len())];
    let named = inside
        .split('<')
        .filter(|part| part.starts_with("input") || part.starts_with("button"))
        .map(tag);
    let mut fields: Vec<(String, String)> = Vec::new();
    for field in named {
        let Some(name) = attribute(field, "name") else { continue };
        // Only one of several buttons is pressed: the first.
        if !fields.iter().any(|(known, _)| *known == name) {
            fields.push((name, attribute(field, "value").unwrap_or_default()));
        }
    }
    Some(Form { action: attribute(tag(start), "action").unwrap_or_default(), fields })
}

fn tag(text: &str) -> &str {
    &text[..text.find('>').unwrap_or(text.len())]
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let rest = tag.split(&format!(" {name}=\"")).nth(1)?;
    let value = rest.split('"').next()?;
    Some(value.replace("&#x2F;", "/").replace("&#47;", "/").replace("&amp;", "&"))
}

fn absolute(base: &str, reference: &str) -> String {
    let origin: String = base.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    match reference {
        "" => base.to_owned(),
        url if url.starts_with("http") => url.to_owned(),
        path if path.starts_with('/') => format!("{origin}{path}"),
        path => format!("{}/{path}", base.rsplit_once('/').unwrap().0),
    }
}

fn encode(value: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    let one = |byte: u8| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    value.bytes().map(one).collect()
}
