//! tests/hostile
