//! The Connect Server API, as far as a migration needs it.
