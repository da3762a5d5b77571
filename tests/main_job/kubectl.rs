//! kubectl, helm and the object under test, as a platform team has them. Every helper fails with what the program said.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Runs kubectl; its output.
pub fn kubectl(arguments: &[&str]) -> String {
    succeeded("kubectl", arguments, run("kubectl", arguments, None))
}

/// Runs kubectl with something to read.
pub fn kubectl_with(arguments: &[&str], input: &str) -> String {
    succeeded("kubectl", arguments, run("kubectl", arguments, Some(input)))
}

/// Whether kubectl succeeds.
pub fn kubectl_succeeds(arguments: &[&str]) -> bool {
    run("kubectl", arguments, None).status.success()
}

/// Runs helm.
pub fn helm(arguments: &[&str]) -> String {
    succeeded("helm", arguments, run("helm", arguments, None))
}

fn run(program: &str, arguments: &[&str], input: Option<&str>) -> Output {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; `make cluster-up` prints a PATH that has it"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.unwrap_or_default().as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn succeeded(program: &str, arguments: &[&str], output: Output) -> String {
    assert!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace, and what is asked of it.
#[derive(Clone, Copy)]
pub struct Namespace(pub &'static str);

impl Namespace {
    /// kubectl in this namespace.
    pub fn kubectl(self, arguments: &[&str]) -> String {
        kubectl(&[&["-n", self.0], arguments].concat())
    }

    /// What kubectl says where it must not succeed.
    pub fn refused(self, arguments: &[&str]) -> String {
        let output = run("kubectl", &[&["-n", self.0], arguments].concat(), None);
        assert!(
            !output.status.success(),
            "kubectl {} was not refused",
            arguments.join(" ")
        );
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Applies a manifest here, as a user would.
    pub fn apply(self, manifest: &str) {
        kubectl_with(&["-n", self.0, "apply", "--server-side", "-f", "-"], manifest);
    }

    /// An object as JSON.
    pub fn get(self, what: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", what, "-o", "json"])).unwrap()
    }

    /// Waits as a user's script would.
    pub fn wait(self, condition: &str, what: &str, timeout: Duration) {
        let timeout = format!("--timeout={}s", timeout.as_secs());
        let arguments = ["-n", self.0, "wait", &format!("--for={condition}"), what, &timeout];
        let output = run("kubectl", &arguments, None);
        assert!(
            output.status.success(),
            "{what} did not come to {condition}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(
                &run(
                    "kubectl",
                    &["-n", self.0, "get", "segc,pods,jobs,events", "-o", "wide"],
                    None
                )
                .stdout
            ),
        );
    }

    /// A condition of a `SegmentCounter`: status, reason and message.
    pub fn condition(self, name: &str, type_: &str) -> (String, String, String) {
        let object = self.get(&format!("segmentcounter/{name}"));
        let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let one = all.iter().find(|condition| condition["type"] == type_);
        let word = |key: &str| one.map_or(String::new(), |one| one[key].as_str().unwrap_or_default().to_owned());
        (word("status"), word("reason"), word("message"))
    }

    /// Waits until a condition has this status and reason.
    pub async fn told(self, name: &str, type_: &str, status: &str, reason: &str, within: Duration) {
        let what = format!("{name}: {type_} {status} {reason}");
        eventually(&what, within, || {
            let (is, why, message) = self.condition(name, type_);
            if (is.as_str(), why.as_str()) == (status, reason) {
                Ok(())
            } else {
                Err(format!("{is} {why}: {message}"))
            }
        })
        .await;
    }

    /// SQL as the superuser of the namespace's Postgres; rows by line, columns by `|`. From its standard input: it may hold a password.
    pub fn psql(self, sql: &str) -> String {
        let psql = [
            "psql",
            "-h",
            "/tmp",
            "-U",
            "postgres",
            "-d",
            "app",
            "-qAt",
            "-v",
            "ON_ERROR_STOP=1",
        ];
        kubectl_with(&[&["-n", self.0, "exec", "-i", "pg-0", "--"], &psql[..]].concat(), sql)
            .trim()
            .to_owned()
    }
}

/// Tries again until it is so; panics with the last reason why it is not.
pub async fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) => assert!(
                begun.elapsed() < within,
                "{what}: not within {} s; {why}",
                within.as_secs()
            ),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
