//! Certificates for servers of tests, made by openssl.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Names that the certificate of [`crate::Server::secure`] is for: the last one is the only one some clients ever call.
const NAMES: &str = "subjectAltName=DNS:localhost,IP:127.0.0.1,DNS:api.depot.dev";

/// An authority and a certificate of it for [`NAMES`].
pub(crate) fn certificates(dir: &Path) {
    let openssl = |args: &str| {
        let output =
            Command::new("openssl").args(args.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    fs::write(dir.join("names"), NAMES).unwrap();
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=tests -days 2"));
    openssl(&format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"));
    openssl(
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
}
