//! A builder on TCP: only clients with a certificate of its authority get through.

use std::path::Path;
use std::process::{Command, Stdio};

use cofferdam_tests::{Builder, Options};

fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    std::fs::write(dir.join("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    for authority in ["ca", "other"] {
        let made = format!(
            "req -x509 {key} -keyout {authority}.key -out {authority}.pem -subj /CN=a -days 2"
        );
        openssl(dir, &made);
    }
    for (name, authority) in [("server", "ca"), ("client", "ca"), ("stranger", "other")] {
        openssl(dir, &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN=localhost"));
        openssl(
            dir,
            &format!(
                "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key \
                 -CAcreateserial -out {name}.pem -days 2 -extfile ext"
            ),
        );
    }
}

/// What a client reads after the handshake: with HTTP/2 the server speaks first.
fn first_bytes(dir: &Path, port: u16, client: Option<&str>) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-quiet", "-alpn", "h2", "-CAfile", "ca.pem", "-verify_return_error"])
        .args(["-servername", "localhost", "-connect", &format!("127.0.0.1:{port}")])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    if let Some(name) = client {
        command.args(["-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")]);
    }
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .ok();
    // The server answers the preface at once; a refused client is closed.
    std::thread::sleep(std::time::Duration::from_millis(700));
    drop(input);
    child.kill().ok();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn only_clients_of_the_authority_are_served() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let mut args = vec!["--addr".to_owned(), format!("tcp://127.0.0.1:{port}")];
    for (flag, name) in
        [("--tlscert", "server.pem"), ("--tlskey", "server.key"), ("--tlscacert", "ca.pem")]
    {
        args.extend([flag.to_owned(), file(name)]);
    }
    let _builder = Builder::start(&Options { args, ..Options::default() });
    assert!(!first_bytes(dir.path(), port, Some("client")).is_empty(), "a client of the authority");
    assert!(first_bytes(dir.path(), port, None).is_empty(), "no certificate");
    assert!(first_bytes(dir.path(), port, Some("stranger")).is_empty(), "another authority");
}
