//! Values that must not print, and the files that they come from.
//!
//! A secret is read from its file each time it is used, so a rotated one holds from the next use on; nothing of it is ever in a
//! `Debug`, a log line or an error.

use std::fmt;
use std::path::{Path, PathBuf};

/// The largest secret that is read: a file that is larger is not a secret.
const MAX_SECRET_BYTES: u64 = 64 * 1024;

/// A value that does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<Box<str>>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the moment of its use.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a secret could not be read: names the file, never what is in it.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The file holds something that is no secret.
    #[error("{} {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A file that holds one secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFile {
    path: PathBuf,
}

impl SecretFile {
    /// The secret in `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it as it is now, without the line end that editors and `echo` leave.
    ///
    /// # Errors
    /// [`SecretError`]: it cannot be read, is empty, too long, or no UTF-8.
    pub async fn read(&self) -> Result<Secret, SecretError> {
        let file = self.clone();
        match tokio::task::spawn_blocking(move || file.read_blocking()).await {
            Ok(read) => read,
            Err(_) => Err(SecretError::Content {
                path: self.path.clone(),
                reason: "could not be read",
            }),
        }
    }

    /// The same where nothing can be awaited: at the making of a connection.
    ///
    /// # Errors
    /// As [`SecretFile::read`].
    pub fn read_blocking(&self) -> Result<Secret, SecretError> {
        let read = |source| SecretError::Read {
            path: self.path.clone(),
            source,
        };
        let content = |reason| SecretError::Content {
            path: self.path.clone(),
            reason,
        };
        if std::fs::metadata(&self.path).map_err(read)?.len() > MAX_SECRET_BYTES {
            return Err(content("is too long to be a secret"));
        }
        let bytes = std::fs::read(&self.path).map_err(read)?;
        let text = String::from_utf8(bytes).map_err(|_| content("is not UTF-8"))?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(content("is empty")),
            value => Ok(Secret::new(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(Secret(…))");
    }

    #[tokio::test]
    async fn a_secret_is_read_anew_each_time_and_without_its_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = SecretFile::new(dir.path().join("password"));
        assert!(
            file.read()
                .await
                .unwrap_err()
                .to_string()
                .contains("password cannot be read")
        );
        std::fs::write(file.path(), "one\n").unwrap();
        assert_eq!(file.read().await.unwrap().expose(), "one");
        std::fs::write(file.path(), " two ").unwrap();
        assert_eq!(file.read().await.unwrap().expose(), " two ");
        std::fs::write(file.path(), "\r\n").unwrap();
        assert!(file.read().await.unwrap_err().to_string().ends_with("is empty"));
        std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
        assert!(file.read().await.unwrap_err().to_string().ends_with("is not UTF-8"));
    }
}
