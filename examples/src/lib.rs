//! Runnable examples of the Rust SDK, in `examples/`. Each takes the nodes' addresses from `QUORATE_SERVER`
//! (comma separated), or those of `quorate dev`:
//!
//! ```text
//! quorate dev &
//! cargo run -p quorate-examples --example publish
//! cargo run -p quorate-examples --example consume
//! cargo run -p quorate-examples --example worker
//! ```
