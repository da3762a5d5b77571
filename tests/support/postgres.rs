//! Real PostgreSQL servers for tests: private ones in temporary folders on free ports of 127.0.0.1, ended by their process id.
//!
//! [`server`] is shared by a whole test process, a database for each test; [`Server::start`] makes one to be broken. `DATABASE_URL`
//! (of a role that may create databases) takes the place of the shared one. Nothing here skips: what is missing is a failure.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

const PASSWORD: &str = "of-the-tests";
const INSTALL: &str =
    "the tests need PostgreSQL 15 or newer: `apt-get install postgresql` (or put initdb and postgres on the PATH)";
/// Ends the server when the pipe to the test process closes, however that process ended, and clears the folder away.
const WATCHDOG: &str = "trap '' INT TERM HUP; read -r _; kill -QUIT \"$1\" 2>/dev/null; \
     while kill -0 \"$1\" 2>/dev/null; do sleep 0.1; done; rm -rf \"$2\"";

/// The server that the tests of this process share.
pub fn server() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| match std::env::var("DATABASE_URL") {
        Ok(url) => Server { url, private: None },
        Err(_) => Server::start(&[]),
    })
}

/// A running server.
pub struct Server {
    /// The URL of its maintenance database, password included, without a query.
    url: String,
    private: Option<Mutex<Private>>,
}

struct Private {
    folder: PathBuf,
    port: u16,
    settings: Vec<String>,
    postgres: Option<Child>,
    watchdog: Option<Child>,
}

impl Server {
    /// Starts a private server with these `-c` settings over the defaults (fsync on, as installed).
    pub fn start(settings: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("segment-counter-pg-{}-{number}", std::process::id()));
        fs::create_dir(&folder).expect("a temporary folder");
        let password_file = folder.join("password");
        fs::write(&password_file, PASSWORD).unwrap();
        if let Some(user) = other_user() {
            chown(&folder, Some(user), Some(user)).unwrap();
            chown(&password_file, Some(user), Some(user)).unwrap();
        }
        let output = as_user("initdb")
            .args([
                "--no-sync",
                "--username=postgres",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
            ])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg(format!("--pgdata={}", folder.join("data").display()))
            .current_dir(&folder)
            .output()
            .unwrap_or_else(|error| panic!("initdb did not run ({error}): {INSTALL}"));
        assert!(
            output.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let mut private = Private {
            folder,
            port: free_port(),
            settings: strings(settings),
            postgres: None,
            watchdog: None,
        };
        private.run();
        let url = format!("postgres://postgres:{PASSWORD}@127.0.0.1:{}/postgres", private.port);
        Self {
            url,
            private: Some(Mutex::new(private)),
        }
    }

    /// The URL of a new, empty database of this server.
    pub async fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        self.execute(&format!("CREATE DATABASE {name}")).await;
        self.url_of(&name)
    }

    /// The URL of a database by name.
    pub fn url_of(&self, database: &str) -> String {
        let (before, _) = self.url.rsplit_once('/').expect("a URL with a database");
        format!("{before}/{database}")
    }

    /// Runs statements in the maintenance database.
    pub async fn execute(&self, sql: &str) {
        execute(&self.url, sql).await;
    }

    /// Kills every process of the server at once, as a loss of power would, and starts it again on the same folder.
    pub fn crash_and_restart(&self) {
        let mut private = self.private.as_ref().expect("a private server").lock().unwrap();
        private.crash();
        private.run();
    }

    /// The same, but it comes back as a standby, which another one was promoted over.
    pub fn come_back_as_standby(&self) {
        let mut private = self.private.as_ref().expect("a private server").lock().unwrap();
        private.crash();
        fs::write(private.folder.join("data/standby.signal"), "").unwrap();
        private.run();
    }

    /// Stops the server and leaves it down.
    pub fn stop(&self) {
        self.private.as_ref().expect("a private server").lock().unwrap().crash();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The watchdog does it: its pipe closes here, as it does when the process ends (a static is never dropped).
        if let Some(private) = &self.private {
            let mut private = private.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(mut watchdog) = private.watchdog.take() {
                drop(watchdog.stdin.take());
                if let Some(mut postgres) = private.postgres.take() {
                    let _ = postgres.wait();
                }
                let _ = watchdog.wait();
            }
        }
    }
}

impl Private {
    fn run(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            self.launch();
            while Instant::now() < deadline {
                if self
                    .postgres
                    .as_mut()
                    .is_some_and(|child| child.try_wait().unwrap().is_some())
                {
                    // Its port was taken, or a killed predecessor's last process still holds the folder.
                    self.postgres = None;
                    std::thread::sleep(Duration::from_millis(100));
                    break;
                }
                if self.accepts() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL did not start: {log}");
        }
    }

    /// The pid file's last line says `ready`, or `standby`, once it takes connections (and the port answers).
    fn accepts(&self) -> bool {
        let status = fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap_or_default();
        let process = self
            .postgres
            .as_ref()
            .map(|child| child.id().to_string())
            .unwrap_or_default();
        status.lines().next() == Some(process.as_str())
            && status
                .lines()
                .last()
                .is_some_and(|line| matches!(line.trim(), "ready" | "standby"))
            && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    fn launch(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))
            .unwrap();
        let mut command = as_user("postgres");
        command
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "max_connections=200", "-c", "shared_buffers=64MB"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("postgres did not run ({error}): {INSTALL}"));
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "watchdog", &child.id().to_string()])
            .arg(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh");
        // The one before watched a process that has ended; it must not clear the folder away.
        if let Some(mut before) = self.watchdog.replace(watchdog) {
            let _ = before.kill();
            let _ = before.wait();
        }
        self.postgres = Some(child);
    }

    fn crash(&mut self) {
        let Some(mut postmaster) = self.postgres.take() else {
            return;
        };
        let children = children_of(postmaster.id());
        postmaster.kill().unwrap();
        postmaster.wait().unwrap();
        if !children.is_empty() {
            // Those that noticed and ended by themselves are no error.
            let _ = Command::new("kill")
                .arg("-9")
                .args(&children)
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// Runs statements over a connection of its own.
pub async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await
        .expect(sql);
    connection.close().await.unwrap();
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The direct children of a process, by /proc.
fn children_of(parent: u32) -> Vec<String> {
    let parent = parent.to_string();
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .filter_map(Result::ok)
        .filter_map(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            // pid (name) state ppid …: the name may hold anything, so from its last parenthesis on.
            let ppid = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.to_owned();
            (ppid == parent).then(|| process.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

/// PostgreSQL refuses to run as root: then it runs as its own user, or as nobody.
fn other_user() -> Option<u32> {
    let root = fs::metadata("/proc/self").map(|of| of.uid()).ok()? == 0;
    if !root {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let id = |name: &str| {
        users
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split(':').nth(2)?.parse().ok())
    };
    Some(id("postgres").or_else(|| id("nobody")).unwrap_or(65_534))
}

fn as_user(program: &str) -> Command {
    let program = find(program);
    match other_user() {
        None => Command::new(program),
        Some(user) => {
            // setpriv executes the program in its own place, so that the child's id is the server's.
            let mut command = Command::new("setpriv");
            command
                .args([
                    format!("--reuid={user}"),
                    format!("--regid={user}"),
                    "--clear-groups".to_owned(),
                ])
                .arg(program);
            command
        }
    }
}

/// On the PATH, or the newest where Debian keeps them.
pub fn find(program: &str) -> OsString {
    let on_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
    });
    if let Some(file) = on_path {
        return file.into();
    }
    let versions = match fs::read_dir("/usr/lib/postgresql") {
        Ok(versions) => versions,
        Err(error) if error.kind() == ErrorKind::NotFound => panic!("{program} is missing: {INSTALL}"),
        Err(error) => panic!("/usr/lib/postgresql: {error}"),
    };
    versions
        .filter_map(Result::ok)
        .filter_map(|version| version.file_name().to_string_lossy().parse::<u32>().ok())
        .max()
        .map(|version| {
            Path::new("/usr/lib/postgresql")
                .join(version.to_string())
                .join("bin")
                .join(program)
                .into()
        })
        .unwrap_or_else(|| panic!("{program} is missing: {INSTALL}"))
}
