//! What an operator types and reads: commands, help, where a configuration comes from, what `check` finds, messages.

use std::{fs, net::TcpListener, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use sluice_tests::{
    client, eventually, origin,
    proxy::{self, Finished, config_file, finish, run, run_with},
    skip,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

const GOOD: &str = "listen = [\"127.0.0.1:0\"]\n\
    [[upstream]]\nname = \"a\"\nservers = [\"http://127.0.0.1:9000\"]\n\
    [[route]]\npath = \"/a\"\nupstream = \"a\"\n\
    [[route]]\npath = \"/b/{id}\"\nupstream = \"a\"\ntimeouts.request = \"7s\"\n";

/// The least that a run needs.
const FLAGS: [&str; 4] = ["--listen", "127.0.0.1:0", "--upstream", "http://127.0.0.1:9"];

/// A directory with these files.
fn files(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("it is below the directory")).expect("a writable directory");
        fs::write(path, text).expect("a writable directory");
    }
    dir
}

/// `sluice check` of the file of this name.
async fn check(dir: &TempDir, name: &str, environment: &[(&str, &str)]) -> Finished {
    let file = dir.path().join(name);
    run_with(&["check", "--config", file.to_str().expect("UTF-8")], environment, "").await
}

#[track_caller]
fn assert_says(finished: &Finished, code: i32, words: &[&str]) {
    assert_eq!(finished.code, Some(code), "{finished:?}");
    let said = if code == 0 { &finished.stdout } else { &finished.stderr };
    words.iter().for_each(|words| assert!(said.contains(words), "no {words:?} in {finished:?}"));
}

// ---- commands and help ----

#[tokio::test]
async fn sluice_alone_says_how_to_begin() {
    if fs::exists("/etc/sluice/sluice.toml").unwrap_or(true) {
        return skip("this host has a configuration of Sluice");
    }
    for arguments in [&[][..], &["-q"], &["--log-format", "json"]] {
        let alone = run(arguments).await;
        assert_says(&alone, 2, &["--listen", "--config FILE", "sluice demo", "--help"]);
        assert!(alone.stdout.is_empty() && alone.stderr.lines().count() == 5, "{alone:?}");
    }
}

#[tokio::test]
async fn help_is_short_or_long_and_complete() {
    let (short, long, command) = (run(&["-h"]).await, run(&["--help"]).await, run(&["help"]).await);
    for help in [&short, &long, &command] {
        assert_says(help, 0, &["Usage: sluice", "--config", "--listen", "check", "topology"]);
        assert_eq!(help.stderr, "");
    }
    assert_eq!(long.stdout, command.stdout);
    assert!(short.stdout.lines().count() * 2 < long.stdout.lines().count(), "{}", short.stdout);
    assert!(long.stdout.contains("--limit-head-bytes") && !short.stdout.contains("--limit-head-bytes"));
    for code in ["  0  ", "  1  ", "  2  ", " 71  ", " 78  "] {
        assert!(
            long.stdout.lines().any(|line| line.starts_with(&format!(" {code}"))),
            "{code}: {}",
            long.stdout
        );
    }
    assert_eq!(run(&["help", "check"]).await.stdout, run(&["check", "--help"]).await.stdout);
}

#[tokio::test]
async fn version_names_commit_and_features() {
    let (command, flag, short) = (run(&["version"]).await, run(&["--version"]).await, run(&["-V"]).await);
    for version in [&command, &flag] {
        assert_says(version, 0, &["sluice 0.", "\ncommit ", "\nfeatures "]);
    }
    assert_eq!(command.stdout, flag.stdout);
    assert!(short.stdout.starts_with("sluice 0.") && short.stdout.lines().count() == 1, "{short:?}");
}

#[tokio::test]
async fn t_checks_as_check_does() {
    for text in [GOOD.to_owned(), GOOD.replace("listen", "lisen")] {
        let file = config_file(".toml", &text);
        let path = file.path().to_str().unwrap();
        let (test, check) = (run(&["-t", "-c", path]).await, run(&["check", "--config", path]).await);
        assert_eq!((test.code, &test.stdout, &test.stderr), (check.code, &check.stdout, &check.stderr));
        assert_eq!(test.code, Some(i32::from(text.contains("lisen"))), "{test:?}");
    }
}

#[tokio::test]
async fn wrong_values_of_flags_are_2_for_every_command() {
    for arguments in [
        &["--listen", "8080"][..],
        &["check", "--listen", "8080"],
        &["config", "--effective", "--listen", "8080"],
        &["demo", "--listen", "8080"],
        &["demo", "--shards", "none"],
        &["demo", "--log-level", "loud"],
        &["topology", "--shards", "0"],
        &["topology", "--placement", "pakc"],
        &["topology", "--live", "me"],
        &["completions", "cmd"],
        &["-q", "-v"],
        &["-v", "--log-level", "warn"],
        &["--log-format", "xml"],
        &["chekc"],
    ] {
        let finished = run(arguments).await;
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
        assert!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{arguments:?}: {finished:?}");
    }
}

#[tokio::test]
async fn completions_and_the_manual_page_are_well_formed() {
    let bash = run(&["completions", "bash"]).await;
    assert_says(&bash, 0, &["--limit-head-bytes", "topology"]);
    let script = config_file(".bash", &bash.stdout);
    let mut command = Command::new("bash");
    command.arg("-n").arg(script.path());
    let parsed = finish(command).await;
    assert!(parsed.code == Some(0) && parsed.stderr.is_empty(), "{parsed:?}");

    let man = run(&["man"]).await;
    assert_says(&man, 0, &[".TH", "limit\\-head\\-bytes"]);
    let Some(groff) =
        ["/usr/bin/groff", "/bin/groff"].into_iter().find(|path| fs::exists(path).unwrap_or(false))
    else {
        return skip("groff is not installed");
    };
    let page = config_file(".1", &man.stdout);
    let mut command = Command::new(groff);
    command.args(["-man", "-Tascii", "-P-cbou", "-ww"]).arg(page.path());
    let rendered = finish(command).await;
    assert!(rendered.code == Some(0) && rendered.stderr.is_empty(), "{rendered:?}");
    let words = rendered.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in ["SYNOPSIS", "--limit-head-bytes <SIZE> Largest head", "71 the kernel failed"] {
        assert!(words.contains(text), "no {text:?} in {words}");
    }
}

// ---- where a configuration comes from ----

#[tokio::test]
async fn standard_input_is_toml_or_json() {
    let json = r#" {"listen": ["127.0.0.1:0"], "upstream": [{"name": "a", "servers": ["http://127.0.0.1:9000"]}],
        "route": [{"path": "/a", "upstream": "a"}]}"#;
    for (text, routes) in [(GOOD, "2 routes"), (json, "1 route ")] {
        let checked = run_with(&["check", "--config", "-"], &[], text).await;
        assert_says(&checked, 0, &[routes]);
        let broken = run_with(&["check", "-c", "-"], &[], &text.replace("listen", "lisen")).await;
        assert_says(&broken, 1, &["standard input:1:", "did you mean `listen`"]);
    }
}

#[tokio::test]
async fn the_environment_names_a_file_and_a_flag_another() {
    let (one, two) = (config_file(".toml", GOOD), config_file(".toml", &GOOD.replace("/a\"", "/c\"")));
    let [one, two] = [&one, &two].map(|file| file.path().to_str().unwrap());
    let environment = [("SLUICE_CONFIG", one)];
    assert_says(&run_with(&["check"], &environment, "").await, 0, &[one]);
    assert_says(&run_with(&["check", "-c", two], &environment, "").await, 0, &[two]);
    assert_says(
        &run_with(&["check"], &[("SLUICE_CONFIG", "/no/file.toml")], "").await,
        1,
        &["/no/file.toml: cannot read"],
    );
}

#[tokio::test]
async fn set_reaches_every_key_and_is_checked_like_a_file() {
    let effective = async |set: &[&str]| {
        let set: Vec<&str> = set.iter().flat_map(|set| ["--set", set]).collect();
        run(&[&["config", "--effective"], &FLAGS[..], &set].concat()).await
    };
    let shown =
        effective(&["limits.head_bytes=32KiB", "forwarding.trusted_proxies=10.0.0.0/8, 127.0.0.1"]).await;
    assert_says(&shown, 0, &["head_bytes = \"32KiB\"", "# --set limits.head_bytes\n"]);
    assert_says(&shown, 0, &["trusted_proxies = [\"10.0.0.0/8\", \"127.0.0.1\"]"]);
    for (set, words) in [
        ("limits.haed_bytes=1KiB", "did you mean `limits.head_bytes`"),
        ("limits.head_bytes=1", "too small"),
        ("limits.head_bytes", "--set limits.head_bytes=VALUE"),
        ("limits=1", "is a table"),
        ("route=1", "is a table"),
    ] {
        assert_says(&effective(&[set]).await, 2, &["--set ", words]);
    }
}

#[tokio::test]
async fn files_include_others_once() {
    let main = format!("include = [\"conf.d/*.toml\"]\n{GOOD}");
    let part = |path: &str| format!("[[route]]\npath = \"{path}\"\nupstream = \"a\"\n");
    let dir = files(&[
        ("main.toml", &main),
        ("conf.d/1.toml", &part("/one")),
        ("conf.d/2.toml", &part("/two")),
        ("conf.d/3.txt", "this is not read"),
        ("twice.toml", &main.replace("*.toml\"", "1.toml\", \"conf.d/*.toml\"")),
        ("missing.toml", &main.replace("*.toml", "none.toml")),
        ("broken.toml", &main.replace("conf.d/*", "broken/*")),
        ("broken/1.toml", "\n[[route]]\npaht = \"/x\"\nupstream = \"a\"\n"),
        ("self.toml", &main.replace("conf.d/*.toml", "self.toml")),
    ]);
    assert_says(&check(&dir, "main.toml", &[]).await, 0, &["4 routes"]);
    assert_says(&check(&dir, "twice.toml", &[]).await, 1, &["twice.toml:1:", "1.toml is included twice"]);
    assert_says(&check(&dir, "self.toml", &[]).await, 1, &["self.toml:1:", "includes itself"]);
    assert_says(&check(&dir, "missing.toml", &[]).await, 1, &["missing.toml:1:", "cannot read", "none.toml"]);
    assert_says(&check(&dir, "broken.toml", &[]).await, 1, &["broken/1.toml:3:1:", "did you mean `path`"]);
}

#[tokio::test]
async fn values_come_from_the_environment_and_from_files() {
    let text = format!("shards = \"${{SHARDS}}\"\ndrain_timeout = \"${{file:secrets/drain}}\"\n{GOOD}");
    let dir = files(&[
        ("main.toml", &text),
        ("secrets/drain", "17s\n"),
        ("nofile.toml", &text.replace("secrets/drain", "secrets/none")),
        ("open.toml", &text.replace("${SHARDS}", "${SHARDS")),
    ]);
    let file = dir.path().join("main.toml");
    let shown = ["config", "--effective", "-c", file.to_str().unwrap()];
    let shown = run_with(&shown, &[("SHARDS", "1")], "").await;
    assert_says(&shown, 0, &["\nshards = 1 ", "drain_timeout = \"17s\""]);
    let with_shards = [("SHARDS", "1")];
    assert_says(
        &check(&dir, "main.toml", &[]).await,
        1,
        &["main.toml:1:", "the environment has no `SHARDS`"],
    );
    assert_says(&check(&dir, "main.toml", &[("SHARDS", "x")]).await, 1, &["main.toml:1:", "shards"]);
    assert_says(
        &check(&dir, "nofile.toml", &with_shards).await,
        1,
        &["nofile.toml:2:", "cannot read", "secrets/none"],
    );
    assert_says(&check(&dir, "open.toml", &with_shards).await, 1, &["open.toml:1:", "without `}`"]);
}

#[tokio::test]
async fn effective_values_name_their_origin() {
    let file = config_file(".toml", &format!("drain_timeout = \"3s\"\n{GOOD}"));
    let path = file.path().to_str().unwrap();
    let shown =
        run(&["config", "--effective", "-c", path, "--shards", "1", "--set", "limits.head_bytes=8KiB"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let origin = |key: &str| {
        let line = shown.stdout.lines().find(|line| line.starts_with(&format!("{key} = ")));
        line.and_then(|line| line.rsplit_once("# "))
            .unwrap_or_else(|| panic!("no {key} in {}", shown.stdout))
            .1
    };
    assert_eq!(origin("drain_timeout"), format!("{path}:1:17"));
    assert_eq!(origin("shards"), "--shards");
    assert_eq!(origin("head_bytes"), "--set limits.head_bytes");
    assert_eq!(origin("header_fields"), "default");
    assert_eq!(origin("timeouts.request"), "default", "of the upstream");
    assert!(shown.stdout.contains("timeouts.request = \"7s\""), "{}", shown.stdout);
}

/// The answer to a question about a request that no route gets: no message, but text on stdout.
#[track_caller]
fn assert_refused(finished: &Finished, text: &str) {
    assert_eq!(finished.code, Some(3), "{finished:?}");
    assert!(finished.stdout.contains(text), "{finished:?}");
}

#[tokio::test]
async fn check_explains_a_route_by_number_or_request() {
    let file = config_file(".toml", GOOD);
    let explain =
        async |route: &str| run(&["check", "-c", file.path().to_str().unwrap(), "--explain", route]).await;
    let by_number = explain("2").await;
    assert_says(
        &by_number,
        0,
        &["[[route]]", "path = \"/b/{id}\"", "timeouts.request = \"7s\"", ".toml:11:"],
    );
    assert_eq!(explain("GET example.com/b/17").await.stdout, by_number.stdout);
    assert_says(&explain("GET example.com/a").await, 0, &["path = \"/a\"", "timeouts.request = \"0s\""]);
    for none in ["0", "3"] {
        assert_says(&explain(none).await, 2, &["there is no route", "1 to 2"]);
    }
    assert_refused(&explain("GET example.com/c").await, "404: no route has this host and path");
    assert_refused(&explain("GET example.com/%zz").await, "400: ");
    let restricted =
        config_file(".toml", &GOOD.replace("path = \"/a\"", "path = \"/a\"\nmethods = [\"GET\"]"));
    let args = ["check", "-c", restricted.path().to_str().unwrap(), "--explain", "POST example.com/a"];
    assert_refused(&run(&args).await, "405, Allow: GET, HEAD");
}

#[tokio::test]
async fn check_takes_a_file_without_a_flag() {
    let file = config_file(".toml", GOOD);
    let path = file.path().to_str().unwrap();
    assert_says(&run(&["check", path]).await, 0, &[&format!("{path}: ok; ")]);
    assert_says(&run(&["check", path, "--shards", "1"]).await, 0, &[": ok; "]);
    assert_says(&run(&["check", path, "--config", path]).await, 2, &["cannot be used with"]);
    assert_says(&run(&["check", "/nowhere.toml"]).await, 1, &["/nowhere.toml"]);
}

// ---- what a start would find ----

#[tokio::test]
async fn check_finds_what_a_start_would_find() {
    let check = async |flags: &[&str]| run(&[&["check"], flags].concat()).await;
    let with = async |flag: &str, value: &str| check(&[&FLAGS[..], &[flag, value]].concat()).await;
    assert_says(&check(&FLAGS).await, 0, &["ok"]);
    let unresolved = check(&["--listen", "127.0.0.1:0", "--upstream", "http://no-such-host.invalid"]).await;
    assert_says(&unresolved, 1, &["no-such-host.invalid", "check the name"]);
    // TEST-NET-1: no host has it.
    assert_says(
        &with("--listen", "192.0.2.1:8080").await,
        1,
        &["192.0.2.1:8080", "does not have that address"],
    );
    assert_says(&with("--shards", "4096").await, 1, &["4096"]);
    let same =
        check(&[&["--metrics", "127.0.0.1:7999", "--listen", "127.0.0.1:7999"], &FLAGS[2..]].concat()).await;
    assert_says(&same, 2, &["--metrics", "127.0.0.1:7999"]);

    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let holder = TcpListener::bind(taken).unwrap();
    let warned = with("--listen", &taken.to_string()).await;
    assert_says(&warned, 0, &["ok"]);
    assert!(
        warned.stderr.starts_with("warning: ") && warned.stderr.contains(&taken.to_string()),
        "{warned:?}"
    );
    drop(holder);

    let unprivileged =
        fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if geteuid().is_root() || unprivileged.trim() == "0" {
        return skip("ports below 1024 are for this user, too");
    }
    assert_says(&with("--listen", "127.0.0.1:1").await, 1, &["127.0.0.1:1", "CAP_NET_BIND_SERVICE"]);
}

// ---- messages ----

/// Whether a line has the time and the level of a message in front of some text.
fn level_of(line: &str) -> Option<&str> {
    let (time, rest) = line.split_at_checked(24)?;
    let is_time = time.bytes().zip("0000-00-00T00:00:00.000Z".bytes()).all(|(byte, form)| match form {
        b'0' => byte.is_ascii_digit(),
        _ => byte == form,
    });
    let level = ["ERROR", "WARN", "INFO", "DEBUG"]
        .into_iter()
        .find(|level| rest.starts_with(&format!(" {level:5} ")))?;
    (is_time && rest.len() > 7).then_some(level)
}

#[tokio::test]
async fn every_message_has_time_and_level() {
    let origin = origin::real("real").await;
    for (flag, has_debug) in [("--log-level=info", false), ("-v", true)] {
        let proxy = proxy::Proxy::to_with(origin.address, &[flag]).await;
        proxy.counters().await;
        let stopped = proxy.drain().await;
        stopped.assert_clean();
        let levels: Vec<_> = stopped.stderr.iter().map(|line| level_of(line)).collect();
        assert!(levels.iter().all(Option::is_some), "{:#?}", stopped.stderr);
        assert!(levels.contains(&Some("INFO")), "{:#?}", stopped.stderr);
        assert_eq!(levels.contains(&Some("DEBUG")), has_debug, "{:#?}", stopped.stderr);
        assert!(stopped.stderr.is_sorted_by_key(|line| line[..24].to_owned()), "{:#?}", stopped.stderr);
    }
}

#[tokio::test]
async fn a_start_that_fails_is_one_error() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let finished =
        run(&["--listen", &address, "--upstream", "http://127.0.0.1:9", "--log-level", "error"]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let lines: Vec<_> = finished.stderr.lines().collect();
    assert!(lines.len() == 1 && level_of(lines[0]) == Some("ERROR"), "{finished:?}");
    assert!(lines[0].contains(&format!("cannot listen on {address}")), "{finished:?}");
}

#[tokio::test]
async fn json_lines_are_objects_with_values() {
    let mut command = Command::new(proxy::binary().await);
    command.args(FLAGS).args(["--shards", "1", "--log-format", "json"]).kill_on_drop(true);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said: Vec<Value> = Vec::new();
    while let Some(line) = sluice_tests::within("a line", lines.next_line()).await.unwrap() {
        let object: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let message = object["message"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        assert!(object["time"].as_str().is_some_and(|time| time.len() == 24), "{line}");
        assert!(["warn", "info"].contains(&object["level"].as_str().unwrap_or_default()), "{line}");
        said.push(object);
        match message.as_str() {
            "ready (1 shard)" => kill_process(pid, Signal::USR1).unwrap(),
            "counters" => kill_process(pid, Signal::TERM).unwrap(),
            _ => {}
        }
    }
    assert!(sluice_tests::within("its end", child.wait()).await.unwrap().success());
    let of = |start: &str| {
        let found =
            said.iter().find(|object| object["message"].as_str().is_some_and(|text| text.starts_with(start)));
        found.unwrap_or_else(|| panic!("no {start}: {said:#?}"))
    };
    assert_eq!(of("ready (")["shards"], 1);
    assert_eq!(of("counters")["counters"]["connections"], 0);
    assert_eq!(of("leftover")["buffers_held"], 0);
    let listening = of("listening on ");
    assert_eq!(listening["message"], format!("listening on {}", listening["address"].as_str().unwrap()));
    assert_eq!(said.last().unwrap()["message"], "stopped");
}

#[tokio::test]
async fn quiet_is_warnings_and_what_is_asked_for() {
    let origin = origin::real("real").await;
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new(proxy::binary().await);
    command.args(["-q", "--shards", "1", "--listen", &address.to_string()]).kill_on_drop(true);
    command.args(["--upstream", &format!("http://{}", origin.address)]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    eventually("it accepts", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;
    assert_eq!(client::get(address, "/").await.text(), "real");
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    kill_process(pid, Signal::USR1).unwrap();
    let mut said = String::new();
    while !said.contains("counters {") {
        assert_ne!(sluice_tests::within("counters", stderr.read_line(&mut said)).await.unwrap(), 0, "{said}");
    }
    kill_process(pid, Signal::TERM).unwrap();
    sluice_tests::within_time(Duration::from_secs(60), "the rest", stderr.read_to_string(&mut said))
        .await
        .unwrap();
    assert!(child.wait().await.unwrap().success());
    let others: Vec<_> = said.lines().filter(|line| level_of(line) != Some("WARN")).collect();
    assert!(others.len() == 1 && others[0].contains(" INFO  counters {"), "{said}");
}
