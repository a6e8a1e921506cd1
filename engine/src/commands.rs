//! What the `sluice` binary does for each of its commands, and what it says of it.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::{Cli, Command, DemoArgs, RunArgs, TopologyArgs};
use crate::config::{self, Config, ShardChoice};
use crate::control::live;
use crate::demo;
use crate::launch;
use crate::launch_error::LaunchError;
use crate::placement::{self, Plan};
use crate::topology::{self, Topology};

/// Does what the command line asks for, to its end.
pub fn run(cli: &Cli) -> ExitCode {
    match &cli.command {
        None => serve_by(&cli.run),
        Some(Command::Check(args)) => check(&args.config),
        Some(Command::Demo(args)) => run_demo(args),
        Some(Command::Topology(args)) => show_topology(args),
    }
}

fn serve_by(flags: &RunArgs) -> ExitCode {
    match config::resolve(flags) {
        Ok(config) => serve(config, |_| {}),
        Err(errors) => complain(&errors),
    }
}

fn check(file: &Path) -> ExitCode {
    match config::check_file(file) {
        Ok(config) => {
            config.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            println!("{}: ok; {}", file.display(), config.summary());
            ExitCode::SUCCESS
        }
        Err(errors) => complain(&errors),
    }
}

fn run_demo(args: &DemoArgs) -> ExitCode {
    let origin = match demo::start_origin() {
        Ok(origin) => origin,
        Err(error) => return fail(&error),
    };
    let flags = RunArgs {
        listen: vec![args.listen.to_string()],
        upstream: vec![format!("http://{origin}")],
        shards: args.shards.clone(),
        ..RunArgs::default()
    };
    match config::resolve(&flags) {
        Ok(config) => serve(config, |listen| eprint!("{}", demo::introduction(listen[0], origin))),
        Err(errors) => complain(&errors),
    }
}

fn show_topology(args: &TopologyArgs) -> ExitCode {
    if let Some(pid) = args.live {
        return show_live(pid, args.json);
    }
    let choice = match &args.config {
        None => ShardChoice::from_flags(&args.shards),
        Some(file) => {
            let flags =
                RunArgs { config: Some(file.clone()), shards: args.shards.clone(), ..RunArgs::default() };
            config::resolve(&flags).map(|config| config.shards)
        }
    };
    let placed = choice.map_err(|errors| complain(&errors)).and_then(|choice| plan(&args.root, &choice));
    let (topology, plan) = match placed {
        Ok(placed) => placed,
        Err(code) => return code,
    };
    if args.json {
        print!("{}", topology::to_json(&topology, &plan));
    } else if args.interrupts {
        for placement::Alignment { file, value, what } in placement::alignment(&topology, &plan) {
            println!("{file}\t{value}\t{what}");
        }
    } else {
        print!("{}", topology::draw(&topology, &plan));
    }
    ExitCode::SUCCESS
}

fn show_live(pid: u32, as_json: bool) -> ExitCode {
    match live::ask(pid) {
        Ok(shown) if as_json => println!("{}", shown.to_json()),
        Ok(shown) => print!("{}", shown.draw()),
        Err(why) => {
            eprintln!("sluice: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn plan(root: &Path, choice: &ShardChoice) -> Result<(Topology, Plan), ExitCode> {
    let refuse = |why: &dyn std::fmt::Display| {
        eprintln!("sluice: {why}");
        ExitCode::FAILURE
    };
    let topology = Topology::read(root).map_err(|error| refuse(&error))?;
    let plan = placement::plan(&topology, choice).map_err(|error| refuse(&error))?;
    Ok((topology, plan))
}

fn serve(config: Config, when_ready: impl FnOnce(&[std::net::SocketAddr])) -> ExitCode {
    if cfg!(debug_assertions) {
        eprintln!(
            "sluice: this is a debug build, many times slower than a release build (cargo build --release)"
        );
    }
    config.warnings.iter().for_each(|warning| eprintln!("sluice: warning: {warning}"));
    let (topology, plan) = match plan(Path::new("/"), &config.shards) {
        Ok(placed) => placed,
        Err(code) => return code,
    };
    placement::summary(&plan).iter().for_each(|line| eprintln!("sluice: placement: {line}"));
    plan.warnings.iter().for_each(|warning| eprintln!("sluice: warning: {warning}"));
    match launch::run(config, &topology, &plan, when_ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn complain(errors: &config::ConfigErrors) -> ExitCode {
    eprintln!("{errors}");
    ExitCode::FAILURE
}

fn fail(error: &LaunchError) -> ExitCode {
    eprintln!("sluice: {error}");
    error.exit_code()
}
