//! One file for each command, one directory for each noun: options and code side by side.

pub mod apply;
pub mod bench;
pub mod cluster;
pub mod completions;
pub mod consume;
pub mod consumer;
pub mod demo;
pub mod dev;
pub mod log;
pub mod publish;
pub mod queue;
pub mod read;
pub mod receive;
pub mod server;
pub mod settle;
pub mod sim;
pub mod slot;
pub mod topic;
pub mod verify;
