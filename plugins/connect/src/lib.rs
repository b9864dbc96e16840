//! plugins/connect
