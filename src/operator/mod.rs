//! The reconcile: observe → validate → build → apply → prune → status.

// Until the reconcile calls them.
#[allow(dead_code, unused_imports)]
mod build;
#[cfg(test)]
mod fixtures;
#[allow(dead_code)]
mod observed;
#[allow(dead_code)]
mod status;
#[allow(dead_code)]
mod validate;
