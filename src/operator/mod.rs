//! The reconcile: observe → validate → build → apply → prune → status.
