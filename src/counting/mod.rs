//! The rules of counting; pure: no I/O, no clock.
