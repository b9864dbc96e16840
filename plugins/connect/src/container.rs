//! What must change in the configuration when Connect moves into a container.
