use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use run_record::{Exit, Failure};
use xtask::cli::{Cli, dispatch, refused};
use xtask::cluster::devcontainer;
use xtask::commands::{Done, report, trace};
use xtask::run::interrupt::Interrupt;
use xtask::run::printer;
use xtask::run::reporter::{Format, Reporter};
use xtask::run::suspension;
use xtask::world::process::environment;

fn main() -> std::process::ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { environment::take_accounts() };
    // One thread: children are tied to the thread that starts them (see `host::tie`).
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(_) => return std::process::ExitCode::from(Exit::Unclassified as u8),
    };
    let exit = runtime.block_on(run());
    // A thread that is blocked (in a DNS lookup, for example) is not waited for.
    runtime.shutdown_background();
    std::process::ExitCode::from(exit as u8)
}

/// The exit code for an unclassified failure where 1 means that something differs: `EX_SOFTWARE` of
/// sysexits.h.
const UNCLASSIFIED_BESIDE_DIFFERS: i32 = 70;

async fn run() -> i32 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            let Some(failure) = refused(&error, &words) else { error.exit() };
            let (reporter, exit) = (Reporter::new(Format::Json, false), failure.exit() as i32);
            reporter.failure(&failure);
            reporter.end(exit);
            let _ = printer::finish(|| false);
            return exit;
        }
    };
    if let Some(text) = cli.command.without_a_run() {
        printer::data(&text);
        return printer::finish(|| false).map_or(Exit::Unclassified as i32, |()| 0);
    }
    let reporter = Arc::new(cli.common.reporter());
    let interrupt = Interrupt::global();
    if let Err(error) = interrupt.listen() {
        reporter.warn("signals", format!("interrupts are not handled: {error}"));
    }
    if let Err(error) = suspension::listen(reporter.clone()) {
        reporter.warn("signals", format!("Ctrl-Z is not handled: {error}"));
    }
    let (context, result) = match cli.common.context(&cli.command, reporter.clone()) {
        Ok(mut context) => {
            let work = async {
                devcontainer::adapt(&context.repo, &mut context.site).await;
                dispatch(&context, &cli.command).await
            };
            let result = interrupt.until(work).await;
            (Some(context), result)
        }
        Err(failure) => (None, Err::<Done, Failure>(failure)),
    };
    let exit = match result {
        Ok(done) => done.exit(),
        Err(failure) => {
            reporter.failure(&failure);
            match failure.exit() {
                Exit::Unclassified if cli.command.tells_by_exit_code() => UNCLASSIFIED_BESIDE_DIFFERS,
                exit => exit as i32,
            }
        }
    };
    reporter.end(exit);
    if let Some(context) = context {
        if cli.command.is_a_run() {
            report::summarize(&context.run);
        }
        trace::export(&context.run).await;
    }
    // An interrupted run does not wait for a terminal that accepts nothing.
    let last_words = Instant::now() + Duration::from_millis(500);
    let give_up = || interrupt.check().is_err() && Instant::now() > last_words;
    match printer::finish(give_up) {
        Err(error) if exit == 0 => {
            printer::words(&format!("❌ unknown: cannot write to standard output: {error}\n"));
            let _ = printer::finish(give_up);
            Exit::Unclassified as i32
        }
        _ => exit,
    }
}
