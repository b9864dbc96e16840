//! Everything that is said to systemd: units over D-Bus, readiness and status, credentials, the journal, and the two built-in
//! steps.
//!
//! Nothing here runs `systemctl`.

pub mod cgroup;
pub mod credentials;
pub mod journal;
pub mod notify;
pub mod processes;
pub mod proxies;
pub mod steps;
pub mod units;
