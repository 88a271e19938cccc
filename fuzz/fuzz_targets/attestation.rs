//! Statements that scanners write, what requests ask to be attested, and graphs as they are told.
#![no_main]

use std::collections::BTreeMap;

use buffa::Message as _;
use cofferdam_provenance::{Requested, Statement, describe, filter_args, image_purl};
use cofferdam_wire::pb;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(statement) = Statement::parse(data) {
        let bytes = serde_json::to_vec(&statement).unwrap();
        assert_eq!(Statement::parse(&bytes).unwrap(), statement);
    }
    if let Ok(definition) = pb::Definition::decode_from_slice(data) {
        let _ = describe(&definition);
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = image_purl("docker", text, None, &[]);
        let _ = cofferdam_dockerfile::git_fragment(text);
        let kind = if data.len().is_multiple_of(2) { "attest:sbom" } else { "attest:provenance" };
        let attrs = BTreeMap::from([(kind.to_owned(), text.to_owned())]);
        let _ = Requested::parse(&attrs);
        let _ = filter_args(&attrs);
    }
});
