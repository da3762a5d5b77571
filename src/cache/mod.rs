//! What may be lost: one trait, Redis and memory behind it.
