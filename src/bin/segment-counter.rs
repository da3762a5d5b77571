//! Serves exact counts of the users in a segment; migrates, archives and recounts its ledger.

fn main() -> std::process::ExitCode {
    segment_counter::commands::main()
}
