//! What every binary needs: telemetry, shutdown, the health and metrics server, files that reload.
