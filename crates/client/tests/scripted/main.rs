//! The SDK against nodes that do what a test says. One program: what they have in common, nodes and client, is most of what there is
//! to compile.
#![cfg(not(madsim))]

mod admin;
mod consume;
mod fake;
mod publish;
mod worker;
