//! `quorate demo`: the promise as the program itself shows it.

use quorate_tests::process::run;
use quorate_tests::turn;

use crate::HEAVY;

#[test]
fn the_demo_loses_nothing_and_says_so_as_json() {
    turn::alone(HEAVY, async {
        let args = ["demo", "--messages", "20000", "--output", "json", "--limit", "100s"];
        let ended = run(&args, HEAVY).await;
        assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
        let report: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!(report["confirmed"], 20_000, "{report}");
        assert_eq!(report["lost"], 0, "{report}");
        assert_eq!(report["duplicates"], 0, "{report}");
        assert_eq!(report["strange"], 0, "{report}");
        println!("{report}");
    });
}
