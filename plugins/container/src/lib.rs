//! What the steps that run Connect in a container share, whatever the engine: settings, the image, the container's derived
//! configuration, its mounts and owners, and how it is seen that Connect in it serves.

pub mod archive;
pub mod build;
pub mod check;
pub mod check_all;
pub mod check_engine;
pub mod content;
pub mod engine;
pub mod files;
pub mod health;
pub mod image;
pub mod inside;
pub mod kind;
pub mod labels;
pub mod login;
pub mod owners;
pub mod plan;
pub mod port;
pub mod processes;
pub mod reference;
pub mod scan;
pub mod settings;
pub mod spec;
pub mod stage;
pub mod start;
pub mod storage;
pub mod undo;
pub mod world;
