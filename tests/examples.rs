//! Examples run to their end, each as the program that it is.

use std::path::PathBuf;
use std::process::Command;

/// The program, which is built with the tests.
pub(crate) fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().expect("path");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    path.set_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.exists(),
        "{} is missing: it is built by `cargo build --examples`",
        path.display()
    );
    let mut command = Command::new(path);
    command.env_remove("WEBPUBSUB_URL");
    command
}

#[test]
fn a_slow_component_skips_prices_and_holds_up_nobody() {
    let output = example("components").output().expect("started");
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    let last = shown.lines().last().expect("a last line");
    let numbers: Vec<u32> = last
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect();
    let [drawn, skipped, orders, alerts] = numbers[..] else { panic!("{shown}") };
    assert_eq!((drawn + skipped, orders, alerts), (300, 3, 2), "{shown}");
    assert!(drawn >= 10 && skipped > 0, "{shown}");
}
