//! Ends a server when the test process ends, however that comes about: a test that is killed drops nothing.

use std::process::{Child, Command, Stdio};

const SCRIPT: &str = "trap '' INT TERM HUP; read -r _; kill -KILL \"$1\" 2>/dev/null";

/// Watches one process through a pipe that closes with this one.
pub struct Watchdog(Child);

impl Watchdog {
    pub fn of(process: u32) -> Self {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog", &process.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        Self(child)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // The process has been waited for by now: its number may be somebody else's, so nothing may be killed any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
