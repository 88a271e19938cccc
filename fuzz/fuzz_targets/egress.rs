//! The gate's parsers: DNS, control messages, packets of a step.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    cofferdam_egress::exercise_dns(data);
    cofferdam_egress::exercise_control(data);
    cofferdam_egress::exercise_packet(data);
});
