//! The same on a PostgreSQL server of its own, where one is installed.
