//! Finds the program under test.

use std::env;
use std::path::PathBuf;

/// The program under test: `QUORATE_BIN`, else `quorate` in the target directory that this test was built
/// into.
///
/// # Panics
/// When there is none, with the command that builds it.
#[must_use]
pub fn path() -> PathBuf {
    if let Some(named) = env::var_os("QUORATE_BIN") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "QUORATE_BIN names {}, which is no file", named.display());
        return named;
    }
    // target/debug/deps/this-test
    let test = env::current_exe().expect("the test knows its own path");
    let profile =
        test.ancestors().nth(2).expect("a test lies two levels below the target directory");
    let beside = profile.join(format!("quorate{}", env::consts::EXE_SUFFIX));
    assert!(
        beside.is_file(),
        "{} is not built: run `cargo xtask test`, or `cargo build --package quorate-cli` first",
        beside.display()
    );
    beside
}
