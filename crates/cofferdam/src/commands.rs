//! The commands, one module each: arguments are parsed into a struct without effects first, then carried out.

pub(crate) mod build;
pub(crate) mod builder;
pub(crate) mod doctor;
