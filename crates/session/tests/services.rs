//! Secrets, credentials, agents, uploads, content and the session table, end to end.

#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use cofferdam_digest::Digest;
use cofferdam_session::{
    AgentSource, AuthError, ContentError, ContentStore, DockerConfig, LookupError, SecretError,
    SecretSource, SecretStore, Services, SessionManager, TokenRequest, UploadSource, headers,
    serve, session_headers,
};
use common::{session, write};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

#[tokio::test]
async fn secrets_come_from_files_variables_and_values() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "token", "from file");
    let mut store = SecretStore::new();
    store.add("file", SecretSource::File(dir.path().join("token"))).unwrap();
    store.add("value", SecretSource::Value(b"given".to_vec())).unwrap();
    store.add("env", SecretSource::Env("PATH".into())).unwrap();
    assert!(store.add("x", SecretSource::File(dir.path().join("none"))).is_err());
    assert!(store.add("x", SecretSource::Env("COFFERDAM_NOT_SET".into())).is_err());
    assert!(store.add("x", SecretSource::Value(vec![0; 500 * 1024 + 1])).is_err());
    assert!(!format!("{store:?}").contains("given"));

    let (_manager, with) = session(Services::new().secrets(store)).await;
    assert_eq!(with.get_secret("file").await.unwrap(), b"from file");
    assert_eq!(with.get_secret("value").await.unwrap(), b"given");
    assert!(!with.get_secret("env").await.unwrap().is_empty());
    let error = with.get_secret("other").await.unwrap_err();
    assert_eq!(error.to_string(), "secret other: not found");
    let (_manager, without) = session(Services::new()).await;
    assert!(matches!(without.get_secret("file").await, Err(SecretError::NotFound { .. })));
}

#[tokio::test]
async fn credentials_come_from_the_docker_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("docker-credential-testhelper");
    fs::write(
        &helper,
        "#!/bin/sh\nread -r host\ncase $host in\nhelped.example) echo '{\"ServerURL\":\"x\",\"Username\":\"<token>\",\"Secret\":\"tok\"}';;\n\
         broken.example) echo secret-in-output; exit 1;;\n*) echo 'credentials not found in native keychain'; exit 1;;\nesac\n",
    )
    .unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    // SAFETY: no other thread of this test binary reads or writes this variable meanwhile; the
    // secrets test only reads another view of it through the locked standard library.
    unsafe { std::env::set_var("PATH", path) };
    write(
        dir.path(),
        "config.json",
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnBhc3M6d29yZA=="},
            "registry.example:5000": {"identitytoken": "idt"},
            "https://old.example/v2/": {"username": "u", "password": "p"},
            "bad.example": {"auth": "!!"}},
          "credHelpers": {"helped.example": "testhelper", "broken.example": "testhelper",
                          "unknown.example": "testhelper", "evil.example": "../../bin/sh",
                          "registry.example:5000": "not-installed-helper"},
          "HttpHeaders": {"x": "y"}}"#,
    );
    let config = DockerConfig::load(&dir.path().join("config.json")).unwrap();
    assert!(!format!("{config:?}").contains("idt"));
    let (_manager, session) = session(Services::new().credentials(config)).await;
    for (host, username, secret) in [
        ("registry-1.docker.io", "hub", "pass:word"),
        ("registry.example:5000", "", "idt"),
        ("old.example", "u", "p"),
        ("helped.example", "", "tok"),
        ("unknown.example", "", ""),
        ("nothing.example", "", ""),
    ] {
        let found = session.credentials(host).await.unwrap();
        assert_eq!((found.username.as_str(), found.secret.as_str()), (username, secret), "{host}");
    }
    for host in ["bad.example", "broken.example", "evil.example"] {
        let error = session.credentials(host).await.unwrap_err();
        assert!(!format!("{error:?}").contains("secret-in-output"));
    }
    let token = session.fetch_token(TokenRequest::default()).await;
    assert!(matches!(token, Err(AuthError::Absent { .. })));
    assert_eq!(session.token_authority("x", b"salt").await.unwrap(), None);
}

#[tokio::test]
async fn malformed_configurations_do_not_show_their_content() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "config.json", "{\n\"auths\": {\"h\": {\"auth\": hunter2}}}");
    let error = DockerConfig::load(&dir.path().join("config.json")).unwrap_err();
    assert!(error.to_string().contains("line 2") && !format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn agent_connections_are_carried_with_their_half_closes() {
    let dir = tempfile::tempdir().unwrap();
    let agent_path = dir.path().join("agent");
    let agent = UnixListener::bind(&agent_path).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = agent.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                socket.read_to_end(&mut all).await.unwrap();
                all[5..].reverse();
                socket.write_all(&all).await.unwrap();
            });
        }
    });
    assert!(AgentSource::socket(dir.path()).is_err());
    let source = AgentSource::socket(&agent_path).unwrap();
    let (_manager, session) = session(Services::new().agent("default", source)).await;
    session.check_agent("").await.unwrap();
    let error = session.check_agent("other").await.unwrap_err();
    let cause = std::error::Error::source(&std::error::Error::source(&error).unwrap())
        .map(ToString::to_string);
    assert!(cause.unwrap().contains("unset ssh forward key other"));

    let step_path = dir.path().join("step");
    let listener = UnixListener::bind(&step_path).unwrap();
    let forwarding = tokio::spawn(async move { session.forward_agent("", listener).await });
    let mut tasks = Vec::new();
    for index in 0..5_u8 {
        let path = step_path.clone();
        tasks.push(tokio::spawn(async move {
            let mut socket = UnixStream::connect(path).await.unwrap();
            let mut sent = 100_002_u32.to_be_bytes().to_vec();
            sent.push(13);
            sent.extend(vec![index; 100_000]);
            sent.push(255);
            socket.write_all(&sent).await.unwrap();
            socket.shutdown().await.unwrap();
            let mut back = Vec::new();
            socket.read_to_end(&mut back).await.unwrap();
            sent[5..].reverse();
            assert!(back == sent, "{} bytes came back", back.len());
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    forwarding.abort();
}

#[tokio::test]
async fn uploads_are_read_once() {
    let source = UploadSource::new(std::io::Cursor::new(vec![3; 1_000_000]));
    let (_manager, session) = session(Services::new().upload("abc", source)).await;
    let mut stream = session.upload_pull("/abc", "buildkit-session").await.unwrap();
    let mut total = 0;
    while let Some(chunk) = stream.next().await {
        total += chunk.unwrap().len();
    }
    assert_eq!(total, 1_000_000);
    let mut again = session.upload_pull("/abc", "buildkit-session").await.unwrap();
    assert!(again.next().await.unwrap().is_err());
}

#[tokio::test]
async fn content_is_written_verified_and_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::create(dir.path()).unwrap();
    let reading = ContentStore::open(dir.path()).unwrap();
    let services =
        Services::new().content_store("local:cache", store).content_store("oci:in", reading);
    let (_manager, session) = session(services).await;
    let content = vec![9; 3_000_000];
    let digest = Digest::of(&content);
    let missing = session.content_info("local:cache", &digest).await;
    assert!(matches!(missing, Err(ContentError::NotFound { .. })));
    let mut writer = session.content_writer("local:cache", &digest, 3_000_000).await.unwrap();
    writer.write(&content[..1_000_000]).await.unwrap();
    writer.write(&content[1_000_000..]).await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(session.content_info("oci:in", &digest).await.unwrap().size, 3_000_000);
    let exists = session.content_writer("local:cache", &digest, 3_000_000).await;
    assert!(matches!(exists, Err(ContentError::AlreadyExists)));
    let mut stream = session.content_read("oci:in", &digest, 2_999_990).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().len(), 10);
    assert!(stream.next().await.is_none());

    let wrong = Digest::of("other");
    let mut writer = session.content_writer("local:cache", &wrong, 4).await.unwrap();
    writer.write(b"evil").await.unwrap();
    assert!(writer.commit().await.is_err());
    assert!(session.content_writer("oci:in", &wrong, 4).await.is_err());
    let unknown = session.content_writer("local:é", &wrong, 4).await.err().unwrap();
    let reason = "contains value with non-printable ASCII characters";
    assert!(unknown.to_string().contains(reason), "{unknown}");
    let unknown = session.content_writer("local:e", &wrong, 4).await.err().unwrap();
    assert!(!unknown.to_string().contains(reason), "{unknown}");
    assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
}

#[tokio::test]
async fn sessions_are_waited_for_replaced_and_ended() {
    let manager = SessionManager::new();
    assert_eq!(manager.get("").await.unwrap_err(), LookupError::None);
    let waiting = {
        let manager = manager.clone();
        tokio::spawn(async move { manager.get("x:late").await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let open = async || {
        let (near, far) = tokio::io::duplex(64 << 10);
        let dispatch = Services::new().into_dispatch();
        let headers = session_headers("late", "", &dispatch);
        let server = tokio::spawn(serve(far, dispatch));
        (manager.attach(&headers, near).await.unwrap(), server)
    };
    let (first, _server) = open().await;
    assert_eq!(waiting.await.unwrap().unwrap().id(), "late");
    assert!(first.supports("/GRPC.health.v1.Health/check"));
    let (second, server) = open().await;
    assert!(std::sync::Arc::ptr_eq(&manager.lookup("late").unwrap(), &second));
    server.abort();
    second.closed().cancelled().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(manager.lookup("late").is_none());
    first.close();
}

#[tokio::test]
async fn a_missing_session_is_an_error_after_five_seconds() {
    let manager = SessionManager::new();
    let started = tokio::time::Instant::now();
    let error = manager.get("nobody").await.unwrap_err();
    assert_eq!(error.to_string(), "no active session for nobody: context deadline exceeded");
    assert_eq!(started.elapsed().as_secs(), 5);
}

#[tokio::test]
async fn a_tunnel_that_stops_answering_is_ended() {
    // The other end speaks no HTTP at all.
    let (near, _far) = tokio::io::duplex(64 << 10);
    let mut map = http::HeaderMap::new();
    map.insert(headers::SESSION_ID, "mute".parse().unwrap());
    map.insert(headers::HEALTH_TIMEOUT, "1".parse().unwrap());
    let manager = SessionManager::new();
    let session = manager.attach(&map, near).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), session.closed().cancelled()).await.unwrap();
    assert!(manager.lookup("mute").is_none());
    let none = manager.attach(&http::HeaderMap::new(), tokio::io::duplex(64).0).await;
    assert!(none.is_err());
}
