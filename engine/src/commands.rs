//! What the `sluice` binary does for each of its commands, and what it says of it.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory as _;
use sluice_sys::Address;

use crate::cert;
use crate::cli::{
    CertMakeArgs, CertShowArgs, CertTask, CheckArgs, Cli, Command, ConfigArgs, DEFAULT_FILE, DemoArgs,
    ExplainArgs, RunFlags, TopologyArgs,
};
use crate::config::{self, CommandLine, Config, ConfigErrors, Origin, Raw, ShardChoice};
use crate::control::live;
use crate::demo;
use crate::exit::Exit;
use crate::explain::{self, Question};
use crate::launch;
use crate::launch_error::LaunchError;
use crate::log;
use crate::placement::{self, Plan};
use crate::topology::{self, Topology};

/// Does what the command line asks for, to its end.
pub fn run(cli: &Cli) -> ExitCode {
    match &cli.command {
        None if cli.test => check(&CheckArgs { file: None, explain: None, run: cli.run.clone() }),
        None => serve_by(&cli.run),
        Some(Command::Check(args)) => check(args),
        Some(Command::Explain(args)) => explain_request(args),
        Some(Command::Config(args)) => show_config(args),
        Some(Command::Schema) => {
            println!("{:#}", config::schema());
            Exit::Done.into()
        }
        Some(Command::Demo(args)) => run_demo(args),
        Some(Command::Topology(args)) => show_topology(args),
        Some(Command::Cert { task: CertTask::Make(args) }) => make_certificate(args),
        Some(Command::Cert { task: CertTask::Show(args) }) => show_certificates(args),
        #[cfg(feature = "completions")]
        Some(Command::Completions { shell }) => {
            clap_complete::generate(*shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Exit::Done.into()
        }
        #[cfg(feature = "completions")]
        Some(Command::Man) => show_man(),
        Some(Command::Version) => {
            print!("{}", crate::version::long());
            Exit::Done.into()
        }
    }
}

/// What to say to a command line without anything.
const FIRST_STEPS: &str = "\
sluice needs an address to listen on and a server to send requests to:
  sluice --listen 127.0.0.1:8080 --upstream http://127.0.0.1:9000
or a configuration file (/etc/sluice/sluice.toml is not there):
  sluice --config FILE
`sluice demo` shows it at work, `sluice --help` has every flag.";

fn serve_by(flags: &RunFlags) -> ExitCode {
    let line = flags.with_file();
    if line.says_nothing() {
        log::plain(FIRST_STEPS);
        debug_assert!(FIRST_STEPS.contains(DEFAULT_FILE));
        return Exit::WrongFlags.into();
    }
    match config::resolve(&line) {
        Ok(config) => serve(config, |_| {}),
        Err(errors) => complain(&errors),
    }
}

fn check(args: &CheckArgs) -> ExitCode {
    let run = match &args.file {
        None => args.run.clone(),
        Some(file) => {
            let line = CommandLine { config: Some(file.clone()), ..args.run.line.clone() };
            RunFlags { line }
        }
    };
    let line = run.with_file();
    if line.says_nothing() {
        log::plain(format_args!(
            "sluice: nothing to check: write `sluice check FILE` ({DEFAULT_FILE} is not there)"
        ));
        return Exit::WrongFlags.into();
    }
    let checked = config::read(&line).and_then(|raw| Config::check(&raw).map(|config| (raw, config)));
    let (raw, config) = match checked {
        Ok(checked) => checked,
        Err(errors) => return complain(&errors),
    };
    config.warnings.iter().for_each(|warning| log::plain(format_args!("warning: {warning}")));
    let obstacles = crate::preflight::obstacles(&config);
    if !obstacles.is_empty() {
        obstacles.iter().for_each(log::plain);
        return Exit::Refused.into();
    }
    match &args.explain {
        Some(wanted) => show_route(&raw, &config, wanted),
        None => {
            println!("{}: ok; {}", name_of(&line), config.summary());
            Exit::Done.into()
        }
    }
}

/// What messages call the configuration of this command line.
fn name_of(line: &CommandLine) -> String {
    line.config.as_ref().map_or("command line".to_owned(), |file| file.display().to_string())
}

/// Shows a route by its number, or the one that a request comes to.
fn show_route(raw: &Raw, config: &Config, wanted: &str) -> ExitCode {
    let number = match wanted.parse::<usize>() {
        Ok(number) => number.checked_sub(1).ok_or_else(String::new),
        Err(_) => explain::find(config, wanted),
    };
    let explained = number.and_then(|number| {
        let text = config::explain(raw, number).ok_or_else(String::new)?;
        Ok(text + &config.explain_tls(number))
    });
    match explained {
        Ok(text) => {
            print!("{text}");
            Exit::Done.into()
        }
        Err(response) if response.is_empty() => {
            let count = config.routes.len();
            log::plain(format_args!(
                "sluice: --explain: there is no route {wanted} (hint: they are 1 to {count})"
            ));
            Exit::WrongFlags.into()
        }
        Err(response) => {
            println!("{wanted}: {response}");
            Exit::NotServed.into()
        }
    }
}

/// Says which route a request comes to, why, and what is sent where.
fn explain_request(args: &ExplainArgs) -> ExitCode {
    let line = args.run.with_file();
    let checked = config::read(&line).and_then(|raw| Config::check(&raw).map(|config| (raw, config)));
    let (raw, config) = match checked {
        Ok(checked) => checked,
        Err(errors) => return complain(&errors),
    };
    config.warnings.iter().for_each(|warning| log::plain(format_args!("warning: {warning}")));
    let question =
        Question { request: args.request.clone(), headers: args.header.clone(), client: args.client };
    match explain::explain(&raw, &config, &question) {
        Ok(explained) => {
            print!("{}", explained.text);
            if explained.is_refused { Exit::NotServed.into() } else { Exit::Done.into() }
        }
        Err(refused) => {
            println!("{}: {refused}", args.request);
            Exit::NotServed.into()
        }
    }
}

fn show_config(args: &ConfigArgs) -> ExitCode {
    let line = args.run.with_file();
    let checked = config::read(&line).and_then(|raw| Config::check(&raw).map(|config| (raw, config)));
    match checked {
        Ok((raw, config)) => {
            config.warnings.iter().for_each(|warning| log::plain(format_args!("warning: {warning}")));
            print!("{}", config::effective(&raw));
            Exit::Done.into()
        }
        Err(errors) => complain(&errors),
    }
}

#[cfg(feature = "completions")]
fn show_man() -> ExitCode {
    // What short help leaves out would stand there without its text.
    let command = Cli::command().long_version(None).mut_args(|arg| arg.hide_short_help(false));
    match clap_mangen::Man::new(command).render(&mut std::io::stdout()) {
        Ok(()) => Exit::Done.into(),
        Err(_) => Exit::Refused.into(),
    }
}

fn run_demo(args: &DemoArgs) -> ExitCode {
    let origin = match demo::start_origin() {
        Ok(origin) => origin,
        Err(error) => return fail(&error),
    };
    let pair = match args.tls.then(demo::Pair::make).transpose() {
        Ok(pair) => pair,
        Err(why) => return fail(&LaunchError::Refused(why)),
    };
    let port = if args.tls { 8443 } else { 8080 };
    let listen = args.listen.unwrap_or_else(|| ([127, 0, 0, 1], port).into()).to_string();
    let mut flags = args.placement.line.clone();
    flags.flags.extend(args.log.line.flags.iter().cloned());
    let flags = flags.with("--upstream", format!("http://{origin}"));
    let flags = match &pair {
        None => flags.with("--listen", listen),
        Some(pair) => flags
            .with("--listen-tls", listen)
            .with("--tls-cert", pair.cert.display().to_string())
            .with("--tls-key", pair.key.display().to_string()),
    };
    let introduce = |listen: &[Address]| log::plain(demo::introduction(&listen[0], origin, pair.as_ref()));
    match config::resolve(&flags) {
        Ok(config) => serve(config, introduce),
        Err(errors) => complain(&errors),
    }
}

fn show_topology(args: &TopologyArgs) -> ExitCode {
    if let Some(pid) = args.live {
        return show_live(pid, args.json);
    }
    let choice = match &args.config {
        None => ShardChoice::from_flags(&args.placement.line),
        Some(file) => {
            let line = CommandLine { config: Some(file.clone()), ..args.placement.line.clone() };
            config::resolve(&line).map(|config| config.shards)
        }
    };
    let plan_or_say = |choice| {
        plan(&args.root, &choice).map_err(|why| {
            log::plain(format_args!("sluice: {why}"));
            Exit::Refused.into()
        })
    };
    let placed = choice.map_err(|errors| complain(&errors)).and_then(plan_or_say);
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
    Exit::Done.into()
}

fn show_live(pid: u32, as_json: bool) -> ExitCode {
    match live::ask(pid) {
        Ok(shown) if as_json => println!("{}", shown.to_json()),
        Ok(shown) => print!("{}", shown.draw()),
        Err(why) => {
            log::plain(format_args!("sluice: {why}"));
            return Exit::Refused.into();
        }
    }
    Exit::Done.into()
}

/// The time that validity is compared with.
fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn make_certificate(args: &CertMakeArgs) -> ExitCode {
    match cert::make(args, now_s()) {
        Ok(introduction) => print!("{introduction}"),
        Err(why) => {
            log::plain(format_args!("sluice: {why}"));
            return Exit::Refused.into();
        }
    }
    Exit::Done.into()
}

/// Shows all that can be read, and complains of the others.
fn show_certificates(args: &CertShowArgs) -> ExitCode {
    let (mut shown, mut exit) = (Vec::new(), Exit::Done);
    for file in &args.files {
        match cert::show(file) {
            Ok(file) => shown.push(file),
            Err(why) => {
                log::plain(format_args!("sluice: {why}"));
                exit = Exit::Refused;
            }
        }
    }
    let now_s = now_s();
    if args.json {
        let files: Vec<_> = shown.iter().map(|file| file.to_json(now_s)).collect();
        println!("{:#}", serde_json::Value::from(files));
    } else {
        shown.iter().for_each(|file| print!("{}", file.draw(now_s)));
    }
    exit.into()
}

fn plan(root: &Path, choice: &ShardChoice) -> Result<(Topology, Plan), String> {
    let topology = Topology::read(root).map_err(|error| error.to_string())?;
    let plan = placement::plan(&topology, choice).map_err(|error| error.to_string())?;
    Ok((topology, plan))
}

fn serve(config: Config, when_ready: impl FnOnce(&[Address])) -> ExitCode {
    log::set(config.log);
    log::debug(crate::version::line());
    if cfg!(debug_assertions) {
        log::warn("this is a debug build, many times slower than a release build (cargo build --release)");
    }
    config.warnings.iter().for_each(log::warn);
    log::debug(format_args!("configuration: {}", config.summary()));
    let (topology, plan) = match plan(Path::new("/"), &config.shards) {
        Ok(placed) => placed,
        Err(why) => return fail(&LaunchError::Refused(why)),
    };
    placement::summary(&plan).iter().for_each(|line| log::info(format_args!("placement: {line}")));
    plan.warnings.iter().for_each(log::warn);
    match launch::run(config, &topology, &plan, when_ready) {
        Ok(()) => Exit::Done.into(),
        Err(error) => fail(&error),
    }
}

/// Reports errors: 2 where a flag is among what is wrong, 1 for files alone.
fn complain(errors: &ConfigErrors) -> ExitCode {
    log::plain(errors);
    let is_flag = |at: &Origin| matches!(at, Origin::Flag(_) | Origin::CommandLine);
    let is_by_flag = errors.errors.iter().any(|error| is_flag(&error.at));
    if is_by_flag { Exit::WrongFlags.into() } else { Exit::Refused.into() }
}

fn fail(error: &LaunchError) -> ExitCode {
    log::error(error);
    error.exit().into()
}
