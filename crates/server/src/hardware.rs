//! Sizes of builders, by the numbers of Depot's `Hardware`.

use cofferdam_fleet::Resources;

/// Processors and memory of each size, in GiB; the number is its place in the wire's enumeration.
const SIZES: [(u32, u64); 11] = [
    (16, 32),
    (16, 32),
    (4, 4),
    (8, 8),
    (8, 16),
    (32, 64),
    (64, 128),
    (96, 192),
    (192, 384),
    (4, 8),
    (384, 768),
];

/// Limits of a size; unknown ones are the default.
pub(crate) fn resources(hardware: i32) -> Resources {
    let (cpus, gib) = usize::try_from(hardware)
        .ok()
        .and_then(|index| SIZES.get(index).copied())
        .unwrap_or(SIZES[0]);
    Resources { cpus, memory: gib << 30 }
}

/// Whether the number is a size.
pub(crate) fn is_known(hardware: i32) -> bool {
    usize::try_from(hardware).is_ok_and(|index| index < SIZES.len())
}

/// What a minute of a size counts in usage, against the default's.
pub(crate) fn multiplier(hardware: i32) -> f32 {
    let cpus = resources(hardware).cpus;
    // Sizes are small whole numbers; nothing is lost.
    #[allow(clippy::cast_precision_loss)]
    let factor = cpus as f32 / SIZES[0].0 as f32;
    factor.max(1.0)
}
