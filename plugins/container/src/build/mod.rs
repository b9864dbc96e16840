//! An image that is built on this host by the step's own engine, while Connect still serves.

pub mod check;
pub mod context;
pub mod ignore;
pub mod recipe;
pub mod run;
pub mod settings;
pub mod told;
