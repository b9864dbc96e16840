//! Versions of Connect.
