//! Ledger and cache made one: recorder (group commit), counter (read path), maintenance (archive, refresh).
