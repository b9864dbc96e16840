//! The connect-api step plugin.
