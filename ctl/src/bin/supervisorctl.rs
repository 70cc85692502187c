//! `supervisorctl`: Supervisor's client.

fn main() -> std::process::ExitCode {
    fleetvisor_ctl::local::main()
}
