//! Mutual TLS with a daemon: who is let in, and what is said to those who are not.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use cofferdam_client::{Client, MutualTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn issue(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A daemon that says whether somebody with a certificate of `authority` began to speak HTTP/2.
async fn daemon(
    authority: &Authority,
    alpn: &[u8],
) -> (SocketAddr, tokio::task::JoinHandle<Option<Vec<u8>>>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&authority.pem())).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let pair = authority.issue("build.internal");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![certificate(&pair.certificate)],
            PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.ok()?;
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.ok()?;
        let mut preface = vec![0; 14];
        stream.read_exact(&mut preface).await.ok()?;
        Some(preface)
    });
    (address, task)
}

fn tls(server: &Authority, client: &Pair) -> MutualTls {
    MutualTls {
        server_name: "build.internal".into(),
        authority: server.pem(),
        certificate: client.certificate.clone(),
        key: client.key.clone(),
    }
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let authority = Authority::new();
    let (address, served) = daemon(&authority, b"h2").await;
    let tls = tls(&authority, &authority.issue("client"));
    let client = Client::connect_tls(&format!("tcp://{address}"), &tls).await.unwrap();
    assert_eq!(served.await.unwrap().unwrap(), b"PRI * HTTP/2.0");
    drop(client);
}

#[tokio::test]
async fn the_given_authority_alone_is_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let client = authority.issue("client");
    let mut wrong_name = tls(&authority, &client);
    wrong_name.server_name = "another.internal".into();
    for tls in [tls(&other, &client), wrong_name] {
        let (address, served) = daemon(&authority, b"h2").await;
        let error = Client::connect_tls(&format!("tcp://{address}"), &tls).await.err().unwrap();
        assert!(error.to_string().starts_with("start TLS with tcp://127.0.0.1:"), "{error}");
        assert_eq!(served.await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_daemon_without_http2_is_refused() {
    let authority = Authority::new();
    let (address, _served) = daemon(&authority, b"http/1.1").await;
    let tls = tls(&authority, &authority.issue("client"));
    assert!(Client::connect_tls(&format!("tcp://{address}"), &tls).await.is_err());
}

#[tokio::test]
async fn unusable_material_is_named_and_no_key_is_printed() {
    let authority = Authority::new();
    let good = tls(&authority, &authority.issue("client"));
    assert!(!format!("{good:?}").contains("PRIVATE"));
    let changed = |change: fn(&mut MutualTls)| {
        let mut tls = good.clone();
        change(&mut tls);
        tls
    };
    for (tls, what) in [
        (changed(|tls| tls.authority.clear()), "authority"),
        (changed(|tls| tls.certificate = "x".into()), "certificate"),
        (changed(|tls| tls.key = "-----BEGIN PRIVATE KEY-----\nx".into()), "key"),
        (changed(|tls| tls.server_name = "a b".into()), "name"),
    ] {
        let error = Client::connect_tls("tcp://127.0.0.1:1", &tls).await.err().unwrap();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains(what), "{source}");
    }
    let unix = Client::connect_tls("unix:///run/x.sock", &good).await.err().unwrap();
    assert!(unix.to_string().contains("tcp://"), "{unix}");
}
