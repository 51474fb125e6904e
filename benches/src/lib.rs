//! Benchmarks of the workspace; there is no library. See `benches/`, one file a question, each
//! with a `main` of its own that prints its figures; `benches/support` is what several of them use.
