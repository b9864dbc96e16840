//! The route-nginx step plugin.
