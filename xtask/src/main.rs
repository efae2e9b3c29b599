use std::sync::Arc;

use clap::Parser;
use xtask::cli::{Cli, dispatch};
use xtask::devcontainer;
use xtask::github;
use xtask::process::Interrupt;

// One thread: children are tied to the thread that starts them (see `process`).
#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    let reporter = Arc::new(cli.common.reporter());
    if let Err(error) = Interrupt::global().listen() {
        reporter.warn("signals", format!("interrupts are not handled: {error}"));
    }
    let (context, result) = match cli.common.context(&cli.command, reporter.clone()) {
        Ok(mut context) => {
            devcontainer::adapt(&mut context).await;
            let result = dispatch(&context, &cli.command).await;
            (Some(context), result)
        }
        Err(failure) => (None, Err(failure)),
    };
    let exit = match result {
        Ok(()) => 0,
        Err(failure) => {
            reporter.failure(&failure);
            failure.exit as i32
        }
    };
    reporter.end(exit);
    if let Some(context) = context.filter(|_| cli.command.is_a_run()) {
        github::summarize(&context);
    }
    std::process::ExitCode::from(exit as u8)
}
