//! Development tasks: `cargo xtask VERB`. One file a verb, or a part of the guest.

mod apt;
mod bench;
mod bench_dns;
mod build;
mod command;
mod counts;
mod demo;
mod fuzz;
mod guest;
mod initramfs;
mod kernels;
mod machine;
mod modules;
mod package;
mod setup;
mod sources;
mod systemd;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Stockade's development tasks")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Bring a bare Debian machine to where everything builds.
    Setup,
    /// Build the eBPF object only.
    BuildEbpf {
        /// Build target/bpf/stockade-debug.o, whose programs write lines for `stockade doctor --kernel-log`.
        #[arg(long)]
        debug_log: bool,
    },
    /// Build everything: the eBPF object, then the one binary that carries it.
    Build,
    /// Build a .deb and an .rpm of it in target/package.
    Package(package::Args),
    /// Watch Stockade hold an untrusted agent to a policy: here if this host can enforce, else in a guest.
    Demo(demo::Args),
    /// Run a command as root inside other kernels.
    Vm(vm::Args),
    /// Run the fuzz targets.
    Fuzz(fuzz::Args),
    /// Run all tests: on the host, then in guests; or those that need systemd.
    Test(test::Args),
    /// Measure what an operation costs, in guest instructions.
    Bench(bench::Args),
    /// Measure how fast the DNS gate answers, beside dnsmasq and unbound, on this machine.
    BenchDns(bench_dns::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup => setup::run().map(|()| 0),
        Verb::BuildEbpf { debug_log: true } => build::ebpf(build::Ebpf::Debug).map(|()| 0),
        Verb::BuildEbpf { debug_log: false } => build::ebpf(build::Ebpf::Release).map(|()| 0),
        Verb::Build => build::all().map(|agent| {
            println!("built {}", agent.display());
            0
        }),
        Verb::Package(args) => package::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::BenchDns(args) => bench_dns::run(&args),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
