//! A server that is killed while blobs arrive.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use cofferdam_registry::Limits;

use crate::fixture::{noise, sha256};
use crate::http1::try_send;
use crate::server::{OWNER, Place, Server};

/// Tells the process of this test that it is the one to be killed, and where its files are.
const VICTIM: &str = "COFFERDAM_TEST_REGISTRY_VICTIM";

/// Not a test: what the other process runs.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Some(dir) = std::env::var_os(VICTIM) else { return };
    let server = Server::beside(Place::Kept(Path::new(&dir).join("data")), Limits::default()).await;
    println!("victim {} {}", server.addr, server.project);
    std::future::pending().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_leaves_whole_blobs_or_none() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let mut whole = 0;
    for round in 0..6_u64 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::victim", "--nocapture"])
            .env(VICTIM, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let line = lines.map_while(Result::ok).find(|line| line.contains("victim 1")).unwrap();
        let words: Vec<_> = line.split("victim ").nth(1).unwrap().split(' ').collect();
        let (addr, project) = (words[0].parse().unwrap(), words[1].to_owned());
        let pushing = tokio::spawn(async move {
            for number in 0.. {
                let content = noise(&format!("{round} {number}"), 3_000_000);
                let path = format!("/v2/{project}/blobs/uploads/?digest={}", sha256(&content));
                let authorization = format!("Bearer {OWNER}");
                let headers = [("authorization", authorization.as_str())];
                if try_send(addr, "POST", &path, &headers, content.into()).await.is_err() {
                    return;
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(300 + 130 * round)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        pushing.await.unwrap();
        whole = check(&dir.path().join("data/registry"));
    }
    assert!(whole > 0, "nothing was pushed at all");
    let data = dir.path().join("data");
    let records = cofferdam_records::Records::open(&data).await.unwrap();
    crate::server::open(&data, &records, Limits::default());
    assert_eq!(files(&data.join("registry"), "/uploads/").len(), 0);
    assert_eq!(check(&data.join("registry")), whole);
}

/// Every blob is what its name says; how many there are.
fn check(registry: &Path) -> usize {
    let blobs = files(registry, "/blobs/");
    for path in &blobs {
        let digest = sha256(&std::fs::read(path).unwrap());
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(digest, format!("sha256:{name}"), "{} is not whole", path.display());
    }
    blobs.len()
}

fn files(registry: &Path, part: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    crate::server::walk(registry, &mut found);
    found.retain(|path| path.to_string_lossy().contains(part));
    found
}
