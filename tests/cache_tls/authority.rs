//! A certificate authority of one test, by the openssl command.

use std::process::{Command, Stdio};

/// Signs for `localhost` and 127.0.0.1. Its files go away with it.
pub struct Authority {
    folder: tempfile::TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let authority = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        let [key, file] = ["authority.key", "authority.pem"].map(|name| authority.path(name));
        openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority",
            &["-keyout", &key, "-out", &file],
        );
        authority
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Its own certificate: what is to be trusted.
    pub fn file(&self) -> String {
        self.path("authority.pem")
    }

    /// The files of a server's certificate and key.
    pub fn certificate(&self) -> (String, String) {
        let [key, request, names, certificate] =
            ["server.key", "server.csr", "names", "server.pem"].map(|name| self.path(name));
        openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost",
            &["-keyout", &key, "-out", &request],
        );
        std::fs::write(&names, "subjectAltName = DNS:localhost, IP:127.0.0.1\n").unwrap();
        openssl(
            "x509 -req -days 2 -CAcreateserial",
            &[
                "-in",
                &request,
                "-CA",
                &self.file(),
                "-CAkey",
                &self.path("authority.key"),
                "-extfile",
                &names,
                "-out",
                &certificate,
            ],
        );
        (certificate, key)
    }
}

fn openssl(words: &str, files: &[&str]) {
    let output = Command::new("openssl")
        .args(words.split(' '))
        .args(files)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("openssl did not run ({error}): `apt-get install openssl`"));
    assert!(
        output.status.success(),
        "openssl {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
