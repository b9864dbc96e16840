//! The configuration file, read and edited without losing a byte.
