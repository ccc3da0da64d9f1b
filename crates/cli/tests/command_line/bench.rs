//! `bench` with everything it measures: that it measures, not how much.

use serde_json::Value;
use tempfile::TempDir;

use crate::stand_in::{command, said};

fn bench(options: &[&str]) -> (String, String, i32) {
    let folder = TempDir::new().unwrap();
    let size = ["bench", "--memory", "16MiB", "--repeats", "1"];
    let mut bench = command(&[&size, options].concat());
    bench.env("TMPDIR", folder.path());
    let told = said(&bench.output().unwrap());
    assert!(folder.path().read_dir().unwrap().next().is_none(), "nothing is left of it");
    told
}

#[test]
fn everything_is_measured_with_each_number_of_lanes() {
    let (out, err, status) = bench(&["--lanes", "1,3", "--json"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let report: Value = serde_json::from_str(&out).expect("one JSON object");
    assert_eq!((&report["memory_bytes"], &report["repeats"]), (&(16 << 20).into(), &1.into()));
    let runs = report["runs"].as_array().expect("a list");
    assert_eq!(runs.iter().map(|run| run["lanes"].as_u64()).collect::<Vec<_>>(), [1, 3].map(Some));
    for run in runs {
        for (field, value) in run.as_object().expect("an object") {
            let none_lost = field == "product_lost_us";
            assert!(value.as_f64().is_some_and(|value| value > 0.0 || none_lost), "{field}: {run}");
        }
    }
}

#[test]
fn a_person_reads_a_table() {
    let (out, err, status) = bench(&["--lanes", "2"]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("An idle guest of 16 MiB, random,"), "{out}");
    let last = out.lines().last().unwrap_or_default();
    assert!(last.starts_with("    2 ") && last.matches(" ms").count() == 2, "{out}");
}
