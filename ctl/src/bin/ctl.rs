//! `ctl`: one command over this host or a fleet.

fn main() -> std::process::ExitCode {
    fleetvisor_ctl::cli::main()
}
