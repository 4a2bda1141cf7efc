//! The `stockade` command.

fn main() -> std::process::ExitCode {
    stockade::cli::main().into()
}
