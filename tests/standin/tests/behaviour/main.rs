//! What the stand-in does, seen from outside: over HTTP on loopback, with SQLite or PostgreSQL below.

mod api;
mod caches;
mod commands;
mod copies;
mod postgres;
mod scene;
mod tasks;
