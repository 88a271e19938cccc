//! Rules about sources, and a source that they are about.
#![no_main]

use buffa::Message;
use cofferdam_wire::moby::buildkit::v1::sourcepolicy::Policy;
use cofferdam_wire::pb::SourceOp;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The first byte says where the policy ends.
    let Some((first, rest)) = data.split_first() else { return };
    let at = rest.len() * usize::from(*first) / 255;
    let (Ok(policy), Ok(mut source)) =
        (Policy::decode_from_slice(&rest[..at]), SourceOp::decode_from_slice(&rest[at..]))
    else {
        return;
    };
    if let Ok(policies) = cofferdam_sourcepolicy::Policies::new([&policy]) {
        let _ = policies.apply(&mut source);
    }
});
