#![allow(clippy::unwrap_used)]

use std::path::Path;

use cofferdam_session::SecretSource;

use super::*;

#[test]
fn outputs() {
    let parse = |value| parse_output(value).unwrap();
    let output = parse("type=local,dest=out");
    assert_eq!(output.destination, Destination::Directory("out".into()));
    assert_eq!(output.exporter.kind, "local");
    assert!(output.exporter.attrs.is_empty());
    assert_eq!(parse("out").destination, Destination::Directory("out".into()));
    assert_eq!(parse("-").exporter.kind, "tar");
    assert_eq!(parse("type=tar").destination, Destination::Stdout);
    assert_eq!(parse("type=oci,dest=x.tar").destination, Destination::File("x.tar".into()));
    assert_eq!(parse("type=oci,tar=false,dest=x").destination, Destination::Directory("x".into()));
    assert_eq!(parse("type=docker").destination, Destination::None);
    let quoted = parse("type=image,\"name=a,b\",PUSH=true");
    assert_eq!(quoted.exporter.attrs["name"], "a,b");
    assert_eq!(quoted.exporter.attrs["push"], "true");
    assert_eq!(parse("type=registry,name=x").exporter.attrs["push"], "true");
    for (value, expected) in [
        ("type=local", "--output requires dest=<dest>"),
        ("dest=x,name=y", "--output requires type=<type>"),
        ("type=image,dest=x", "dest=x is not supported by type=image"),
        ("type=local,output=x", "unexpected key \"output\" in --output (did you mean dest?)"),
        ("", "invalid --output value"),
        ("type=image,\"name", "invalid --output value"),
        ("type=image,x", "invalid --output value"),
    ] {
        assert_eq!(parse_output(value).unwrap_err().to_string(), expected, "{value}");
    }
}

#[test]
fn secrets() {
    let parse = |value| parse_secret(value).unwrap().source;
    assert!(matches!(parse("id=a,src=f"), SecretSource::File(path) if path == Path::new("f")));
    assert!(matches!(parse("id=a,source=f"), SecretSource::File(_)));
    assert!(matches!(parse("id=a,env=E"), SecretSource::Env(name) if name == "E"));
    assert!(matches!(parse("id=a,type=env"), SecretSource::Env(name) if name == "a"));
    assert!(matches!(parse("id=PATH"), SecretSource::Env(name) if name == "PATH"));
    assert!(matches!(parse("id=no-such-variable"), SecretSource::File(_)));
    for value in ["src=x", "id=a,type=x", "id=a,nope=1", "hunter2", ""] {
        let error = parse_secret(value).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn agents_caches_and_contexts() {
    assert_eq!(parse_ssh("default").unwrap(), Agent { id: "default".into(), socket: None });
    assert_eq!(parse_ssh("x=/s").unwrap().socket, Some("/s".into()));
    assert!(parse_ssh("=x").is_err() && parse_ssh("x=a,b").is_err());
    let cache = parse_cache("--cache-from", "example.com/app:cache").unwrap();
    assert_eq!(
        (cache.kind.as_str(), cache.attrs["ref"].as_str()),
        ("registry", "example.com/app:cache")
    );
    let cache = parse_cache("--cache-to", "type=local,dest=x,mode=max").unwrap();
    assert_eq!((cache.kind.as_str(), cache.attrs.len()), ("local", 2));
    assert_eq!(
        parse_cache("--cache-to", "dest=x").unwrap_err().to_string(),
        "--cache-to requires type=<type>"
    );
    let context = |value| parse_build_context(value).unwrap().1;
    assert_eq!(context("a=../dir"), BuildContext::Directory("../dir".into()));
    assert_eq!(context("a=docker-image://x"), BuildContext::Remote("docker-image://x".into()));
    let layout = |path: &str, tag: Option<&str>, digest: Option<&str>| BuildContext::OciLayout {
        path: path.into(),
        tag: tag.map(String::from),
        digest: digest.map(String::from),
    };
    assert_eq!(context("a=oci-layout://c:/d/e:v1"), layout("c:/d/e", Some("v1"), None));
    assert_eq!(context("a=oci-layout://d@sha256:x"), layout("d", None, Some("sha256:x")));
    assert!(parse_build_context("a").is_err() && parse_build_context("=b").is_err());
}
