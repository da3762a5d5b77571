//! A Secret as Kubernetes mounts it: one file a key.

use std::{collections::BTreeMap, io, path::Path};

/// The keys and values of the Secret mounted at `dir`. Read it anew for each use: Kubernetes swaps the files when the Secret
/// changes (all at once, by renaming the link `..data`, which is why names that begin with a dot are not keys).
///
/// # Errors
/// What the file system said.
pub async fn read(dir: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut keys = BTreeMap::new();
    let mut entries = tokio::fs::read_dir(dir).await?;
    while let Some(entry) = entries.next_entry().await? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || !tokio::fs::metadata(entry.path()).await?.is_file() {
            continue;
        }
        keys.insert(name, tokio::fs::read(entry.path()).await?);
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_mounted_secret_is_read_through_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("..2026_01_01");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("password"), "x").unwrap();
        std::os::unix::fs::symlink("..2026_01_01", dir.path().join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/password", dir.path().join("password")).unwrap();

        let keys = read(dir.path()).await.unwrap();
        assert_eq!(keys, BTreeMap::from([("password".to_owned(), b"x".to_vec())]));
    }
}
