//! Exit codes of lifecycles and of the programs of buildpacks, as the Platform and Buildpack
//! specifications have them. Scripts of users act on them: a number never gets another meaning.

/// All went well; of `bin/detect`: takes part.
pub const OK: u8 = 0;
/// Something went wrong that has no code of its own.
pub const GENERIC: u8 = 1;
/// Arguments that cannot be used.
pub const ARGUMENTS: u8 = 3;
/// The Platform API is not given or not supported.
pub const PLATFORM_API: u8 = 11;
/// The Buildpack API of a module is not supported.
pub const BUILDPACK_API: u8 = 12;
/// No group of the order passed.
pub const DETECT_FAILED: u8 = 20;
/// No group of the order passed, and a buildpack's detection was an error.
pub const DETECT_FAILED_WITH_ERRORS: u8 = 21;
/// Detection could not be done.
pub const DETECT: u8 = 22;
/// Analysis could not be done.
pub const ANALYZE: u8 = 32;
/// Restoring could not be done.
pub const RESTORE: u8 = 42;
/// A buildpack's `bin/build` failed.
pub const BUILDPACK_BUILD: u8 = 51;
/// Building could not be done.
pub const BUILD: u8 = 52;
/// Export could not be done.
pub const EXPORT: u8 = 62;
/// Rebasing could not be done.
pub const REBASE: u8 = 72;
/// A process could not be launched.
pub const LAUNCH: u8 = 82;
/// An extension's `bin/generate` failed.
pub const EXTENSION_GENERATE: u8 = 91;
/// Generation could not be done.
pub const GENERATE: u8 = 92;
/// Extending an image could not be done.
pub const EXTEND: u8 = 102;

/// Of `bin/detect`: does not take part. Other codes than this and [`OK`] are errors.
pub const DETECT_NO: u8 = 100;
