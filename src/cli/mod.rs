//! The command line: raw arguments → one command → how the process ends.

mod api;
mod demo;
mod explain;
mod ready;
mod reload;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::server::{self, Exit};

/// A load balancer and edge cache in one binary.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy.
    Run(ConfigFile),
    /// Read, validate and compile a configuration, and print everything that is wrong with it.
    Check(ConfigFile),
    /// Show what would become of a request: its route, its cache key, how long an answer is kept.
    Explain {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        asked: explain::Asked,
    },
    /// Start three small pods, a certificate and a site, and the proxy in front of them.
    Demo,
    /// Have a running proxy take its configuration; fails, and says why, if that is refused.
    Reload {
        #[command(flatten)]
        file: ConfigFile,
        /// Where its admin API listens, HOST:PORT or unix:PATH, if not where the configuration says.
        #[arg(long, value_name = "ADDR")]
        admin: Option<String>,
    },
    /// Ask a running proxy whether it is ready; the exit code tells.
    Ready {
        /// Where its admin API listens: HOST:PORT or unix:PATH.
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901")]
        admin: String,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration.
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "HEADWATER_CONFIG",
        default_value = "conf/headwater.toml"
    )]
    config: PathBuf,
}

/// Runs the command that the arguments of the process name.
pub fn main() -> Exit {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Help and version are answers too; nobody is left to tell when the output is closed.
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Refused } else { Exit::Clean };
        }
    };
    match arguments.command {
        Command::Run(file) => server::run(&file.config),
        Command::Check(file) => server::check(&file.config),
        Command::Explain { file, asked } => explain::run(&file.config, asked),
        Command::Demo => demo::run(),
        Command::Reload { file, admin } => reload::ask(&file.config, admin),
        Command::Ready { admin } => ready::ask(&admin),
    }
}
