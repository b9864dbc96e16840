//! An installation of Connect on this host.
