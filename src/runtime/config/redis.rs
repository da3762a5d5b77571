//! Where the cache's nodes are: URLs in the configuration itself, or a file of them that may change while the process runs.

use std::path::PathBuf;

use redis::IntoConnectionInfo;

use crate::runtime::secrets::{Secret, SecretFile};

/// Where the nodes are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisNodes {
    /// Nowhere: the cache is this process's memory.
    None,
    /// In the configuration.
    Urls(Vec<Secret>),
    /// In a file that is re-read.
    File(NodesFile),
    /// In the configuration, as those where a Redis Cluster is found.
    Cluster(Vec<Secret>),
}

/// A file of URLs, one a line; what follows a `#` at the beginning of a line is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesFile(SecretFile);

/// Why a file names no nodes; no secret in any text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NodesFileError(String);

impl NodesFile {
    /// The file at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(SecretFile::new(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    /// The nodes that it names now.
    ///
    /// # Errors
    /// [`NodesFileError`]: it cannot be read, names no node, or a line is no URL of one.
    pub async fn read(&self) -> Result<Vec<Secret>, NodesFileError> {
        let text = self.0.read().await.map_err(|error| NodesFileError(error.to_string()))?;
        let lines = text.expose().lines().map(str::trim);
        let lines: Vec<&str> = lines.filter(|line| !line.starts_with('#')).collect();
        urls(&lines).map_err(|problems| NodesFileError(format!("{}: {}", self.path().display(), problems.join("; "))))
    }
}

/// The URLs in texts that hold one or, with commas, some each.
///
/// # Errors
/// What is wrong with each that is none, without its text: it may hold a password.
pub(super) fn urls(texts: &[impl AsRef<str>]) -> Result<Vec<Secret>, Vec<String>> {
    let texts: Vec<&str> = texts
        .iter()
        .flat_map(|text| text.as_ref().split(','))
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .collect();
    let mut problems = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let scheme = ["redis://", "rediss://"].iter().any(|scheme| text.starts_with(scheme));
        if !scheme || text.into_connection_info().is_err() {
            problems.push(format!(
                "number {} is not redis://HOST:PORT or, with TLS, rediss://HOST:PORT",
                index + 1
            ));
        } else if texts[..index].contains(text) {
            problems.push(format!("number {} is there twice: each node once", index + 1));
        }
    }
    if texts.is_empty() {
        problems.push("names no node".to_owned());
    }
    if problems.is_empty() {
        Ok(texts.into_iter().map(Secret::new).collect())
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodes");
        std::fs::write(&path, text).unwrap();
        let read = NodesFile::new(path).read().await;
        read.map(|urls| urls.iter().map(|url| url.expose().to_owned()).collect())
            .map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_file_names_a_node_a_line() {
        let nodes = read("# the cache\nredis://a:1\n\n  redis://b:2\r\nrediss://c:3, redis://d:4\n").await;
        assert_eq!(
            nodes.unwrap(),
            ["redis://a:1", "redis://b:2", "rediss://c:3", "redis://d:4"]
        );
    }

    #[tokio::test]
    async fn a_file_without_nodes_is_refused_and_none_of_its_text_is_told() {
        for (text, why) in [
            ("", "nodes is empty"),
            ("# redis://a:1\n", "names no node"),
            ("redis://a:1\nhttp://:hunter2@b\n", "number 2 is not redis://HOST:PORT"),
            ("redis://a:1\nredis://a:1", "number 2 is there twice"),
            ("redis://:hunter2@a:port", "number 1 is not"),
        ] {
            let error = read(text).await.unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let gone = NodesFile::new("/nowhere/nodes").read().await.unwrap_err().to_string();
        assert!(gone.contains("/nowhere/nodes"), "{gone}");
    }
}
