//! A client in another language, generated from the public interface alone.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use quorate_tests::{Cluster, turn};

/// Installing may have to fetch the packages.
const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn a_python_client_made_from_the_proto_files_publishes_and_consumes() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(python) = environment(dir.path()) else { return };
    turn::beside_others(LIMIT, async {
        let cluster = Cluster::start(3).await;
        // A node that does not lead: a client without our SDK follows no hints.
        let client = cluster.queue("from-python").await;
        let address = cluster.address(cluster.follower_of("from-python").await);
        let mut script = Command::new(&python);
        script.arg(here().join("python/client.py")).arg(dir.path()).args([&address, "from-python"]);
        let ended =
            tokio::task::spawn_blocking(move || output(&mut script)).await.expect("no panic");
        let ended = ended.expect("run the script");
        let said = text(&ended);
        assert!(
            ended.status.success() && said.contains("100 published, delivered and acked"),
            "{said}"
        );
        let queue = client.describe_queue("from-python").await.expect("describe");
        assert_eq!(queue.counts.expect("counts").acked, 100);
    });
}

/// A Python with gRPC, in a directory of its own, and the code generated from the proto files beside it.
/// `None` if that cannot be had here; in CI that is a failure.
fn environment(dir: &Path) -> Option<PathBuf> {
    let made = make(dir);
    if let Err(why) = &made {
        assert!(env::var_os("CI").is_none(), "no Python client: {why}");
        println!("skipped: no Python client here: {why}");
    }
    made.ok()
}

fn make(dir: &Path) -> Result<PathBuf, String> {
    let venv = dir.join("venv");
    let python = venv.join("bin/python");
    step(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    let packages = here().join("python/requirements.txt");
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
    step(install.arg(packages))?;
    let protos = here().join("../proto");
    let mut generate = Command::new(&python);
    generate.args(["-m", "grpc_tools.protoc"]).arg("-I").arg(&protos);
    generate.arg("--python_out").arg(dir).arg("--grpc_python_out").arg(dir);
    for file in ["queue", "consumer"] {
        generate.arg(format!("quorate/v1/{file}.proto"));
    }
    step(&mut generate)?;
    Ok(python)
}

fn step(command: &mut Command) -> Result<(), String> {
    let ended = output(command).map_err(|error| format!("{command:?}: {error}"))?;
    if ended.status.success() { Ok(()) } else { Err(format!("{command:?}: {}", text(&ended))) }
}

fn output(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).output()
}

fn text(ended: &Output) -> String {
    let text = [&ended.stdout[..], &ended.stderr[..]].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
