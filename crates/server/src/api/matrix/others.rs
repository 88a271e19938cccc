//! What is not a call: pages and the registry, with every kind of token and every way to send one.

use axum::body::Body;
use base64::Engine;
use http::{Request, StatusCode};
use tower::ServiceExt;

use super::world::World;

/// As in the other table: `+` may go on, `F` forbidden, `-` not found, `U` unauthenticated; columns as there.
const TABLE: &str = "
GET    /projects                                              UUUU ++ ++ FFF FFF FFFF FFF
GET    /projects/$project                                     UUUU +- +- +-- +-- FF-- F--
GET    /projects/$project/builds/$build                       UUUU +- +- +-- +-- +--- F--
GET    /projects/$project/builds/$build/logs/0                UUUU +- +- +-- +-- +--- F--
GET    /v2/                                                   UUUU ++ ++ +++ +++ ++++ +++
GET    /v2/$project/manifests/latest                          UUUU +- +- +-- +-- ++-- +--
GET    /v2/$project/app/blobs/sha256:$zeros                   UUUU +- +- +-- +-- ++-- +--
GET    /v2/$project/app/referrers/sha256:$zeros               UUUU +- +- +-- +-- ++-- +--
POST   /v2/$project/app/blobs/uploads/                        UUUU +- +- +-- +-- ++-- F--
PUT    /v2/$project/app/manifests/latest                      UUUU +- +- +-- +-- ++-- F--
DELETE /v2/$project/app/manifests/sha256:$zeros               UUUU +- +- F-- F-- FF-- F--
DELETE /v2/$project/app/blobs/sha256:$zeros                   UUUU +- +- F-- F-- FF-- F--
";

/// Ways to send a token.
#[derive(Debug, Clone, Copy)]
enum Way {
    Bearer,
    /// As the password of any user, to the registry.
    Basic,
    /// As a browser does, to pages.
    Cookie,
}

/// Status and text of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: StatusCode,
    text: String,
}

impl Said {
    fn letter(&self, path: &str) -> char {
        // The registry answers much that is allowed with 404, and names what is missing.
        let hidden = !path.starts_with("/v2/") || self.text.contains("NAME_UNKNOWN");
        match self.status {
            StatusCode::UNAUTHORIZED => 'U',
            StatusCode::FORBIDDEN => 'F',
            StatusCode::NOT_FOUND if hidden => '-',
            _ => '+',
        }
    }
}

async fn send(world: &World, method: &str, path: &str, way: Way, token: Option<&str>) -> Said {
    let mut request = Request::builder().method(method).uri(path).header("host", "here");
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    if let Some(token) = token {
        request = match way {
            Way::Bearer => request.header("authorization", format!("Bearer {token}")),
            Way::Basic => {
                let credentials = encode(format!("x-token:{token}"));
                request.header("authorization", format!("Basic {credentials}"))
            }
            Way::Cookie => request.header("cookie", format!("cofferdam_session={token}")),
        };
    }
    let request = request.body(Body::empty()).unwrap();
    let answer = world.router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    let text = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    Said { status, text: String::from_utf8_lossy(&text).into_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cell() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    let mut cells = 0;
    for line in TABLE.trim().lines() {
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let path = path.replace("$zeros", &"0".repeat(64));
        let expected: Vec<char> = words.flat_map(str::chars).collect();
        assert_eq!(expected.len(), world.callers.len(), "{line}");
        let ways = if path.starts_with("/v2/") {
            [Way::Bearer, Way::Basic]
        } else {
            [Way::Bearer, Way::Cookie]
        };
        for (column, (caller, expected)) in world.callers.iter().zip(expected).enumerate() {
            let bearers = caller.bearers.iter().map(Option::as_deref);
            for (bearer, way) in bearers.flat_map(|bearer| ways.map(|way| (bearer, way))) {
                let said = send(&world, method, &world.with_ids(&path), way, bearer).await;
                let letter = said.letter(&path);
                cells += 1;
                if letter != expected {
                    wrong.push(format!(
                        "{method} {path}, column {column} ({}) as {way:?}: {letter} instead of {expected}: {} {}",
                        caller.name, said.status, said.text
                    ));
                }
                if expected == '-' {
                    let nowhere =
                        send(&world, method, &world.with_missing(&path), way, bearer).await;
                    assert_eq!(said.status, nowhere.status);
                    assert_eq!(world.hide_ids(&said.text), world.hide_ids(&nowhere.text), "{line}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(cells > 500, "{cells}");
}
