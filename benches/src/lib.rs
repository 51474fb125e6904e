//! Benchmarks of the workspace; there is no library. See `benches/`, one file a question, each
//! with a `main` of its own that prints its figures.
