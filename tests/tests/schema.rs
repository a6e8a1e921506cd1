//! `sluice schema`: a schema of its own draft, which every example obeys, and which or `sluice check` refuses what is broken.

use std::{fs, path::Path, sync::OnceLock};

use jsonschema::Validator;
use serde_json::{Value, json};
use sluice_tests::proxy::{self, Finished};
use tokio::sync::OnceCell;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn text_of(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

async fn schema() -> &'static Value {
    static SCHEMA: OnceCell<Value> = OnceCell::const_new();
    let print = async || {
        let printed = proxy::run(&["schema"]).await;
        assert_eq!(printed.code, Some(0), "{}", printed.stderr);
        serde_json::from_str(&printed.stdout).expect("JSON")
    };
    SCHEMA.get_or_init(print).await
}

async fn validator() -> &'static Validator {
    static VALIDATOR: OnceLock<Validator> = OnceLock::new();
    let schema = schema().await;
    VALIDATOR.get_or_init(|| jsonschema::draft202012::new(schema).expect("a schema of draft 2020-12"))
}

fn of_toml(text: &str) -> Value {
    let table: toml::Table = text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"));
    serde_json::to_value(table).expect("JSON has all that the configuration has")
}

/// Where the schema finds fault, and what.
async fn faults(file: &Value) -> Vec<String> {
    let errors = validator().await.iter_errors(file);
    errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// The indented or fenced parts of a document that are whole files.
fn whole_files(document: &str) -> Vec<String> {
    let fenced = document.split("```toml\n").skip(1);
    let parts = fenced.map(|part| part.split("```").next().unwrap_or_default().to_owned());
    parts.filter(|part| part.contains("listen") && part.contains("[[route]]")).collect()
}

async fn check(suffix: &str, text: &str) -> (Finished, String) {
    let file = proxy::config_file(suffix, text);
    let name = file.path().to_str().expect("a name").to_owned();
    (proxy::run(&["check", "--config", &name]).await, name)
}

#[tokio::test]
async fn the_schema_is_one() {
    let schema = schema().await;
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    jsonschema::meta::validate(schema).unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test]
async fn examples_obey_the_schema() {
    let mut files = vec![];
    for entry in fs::read_dir(root().join("examples")).expect("examples") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("text");
        let value = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => of_toml(&text),
            Some("json") => serde_json::from_str(&text).expect("JSON"),
            _ => continue,
        };
        files.push((path.display().to_string(), value));
    }
    assert!(files.len() >= 3, "{files:?}");
    // Keys without a default are there as comments, and tables of nothing but such keys.
    let uncomment =
        |line: &str| match line.strip_prefix("# ").filter(|rest| has_key(rest) || rest.starts_with('[')) {
            Some(rest) => format!("{rest}\n"),
            None => format!("{line}\n"),
        };
    let uncommented: String = text_of("examples/sluice.toml").lines().map(uncomment).collect();
    files.push(("examples/sluice.toml, all of it".to_owned(), of_toml(&uncommented)));
    for document in ["README.md", "docs/configuration.md"] {
        let parts = whole_files(&text_of(document)).into_iter();
        files.extend(parts.map(|part| (document.to_owned(), of_toml(&part))));
    }
    assert!(files.iter().any(|(name, _)| name == "README.md"), "the README shows a file");
    for (name, value) in files {
        let faults = faults(&value).await;
        assert!(faults.is_empty(), "{name}: {faults:#?}");
    }
}

fn has_key(line: &str) -> bool {
    let is_key = |key: &str| key.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte));
    line.split_once(" = ").is_some_and(|(key, _)| is_key(key))
}

#[tokio::test]
async fn files_that_name_their_schema_pass_both() {
    let with_comment = format!("#:schema ./sluice.schema.json\n{}", text_of("examples/minimal.toml"));
    let (checked, _) = check(".toml", &with_comment).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    let with_key =
        text_of("examples/minimal.json").replacen('{', "{\"$schema\": \"./sluice.schema.json\",", 1);
    let (checked, _) = check(".json", &with_key).await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert_eq!(faults(&serde_json::from_str(&with_key).expect("JSON")).await, [""; 0]);
}

/// Who refuses a broken file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// The schema, in the editor, and `sluice check`.
    Both,
    /// `sluice check` alone: what values mean, and what they mean together, is not in a schema.
    Check,
}
use By::{Both, Check};

/// What stands in place of one line of a file that is in order; who refuses it, and at which line and column `check` does.
const BROKEN: &[(&str, &str, By, &str)] = &[
    ("listen", "listen = \"127.0.0.1:80\"", Both, "1:10"),
    ("listen", "listen = [80]", Both, "1:11"),
    ("listen", "listen = [\"localhost:80\"]", Check, "1:11"),
    ("listen", "listen = [\"\"]", Check, "1:11"),
    ("listen", "lisen = [\"127.0.0.1:80\"]", Both, "1:1"),
    ("shards", "shards = 0", Both, "2:10"),
    ("shards", "shards = 4097", Both, "2:10"),
    ("shards", "shards = -1", Both, "2:10"),
    ("shards", "shards = 1.5", Both, "2:10"),
    ("shards", "shards = \"many\"", Both, "2:10"),
    ("shards", "shards = true", Both, "2:10"),
    ("shards", "smt = \"yes\"", Both, "2:7"),
    ("shards", "smt = 1", Both, "2:7"),
    ("shards", "placement = 3", Both, "2:13"),
    ("shards", "placement = \"packed\"", Check, "2:13"),
    ("shards", "cpus = \"a\"", Check, "2:8"),
    ("shards", "steering = \"hash\"", Both, "2:12"),
    ("shards", "pinning = true", Both, "2:11"),
    ("shards", "drain_timeout = 10", Both, "2:17"),
    ("shards", "drain_timeout = \"1.5s\"", Both, "2:17"),
    ("shards", "drain_timeout = \"25h\"", Check, "2:17"),
    ("shards", "metrics = \":9145\"", Check, "2:11"),
    ("shards", "include = \"conf.d/*.toml\"", Both, "2:11"),
    ("timeouts", "request_head = \"0s\"", Check, "4:16"),
    ("timeouts", "request_head = \"10 s\"", Both, "4:16"),
    ("timeouts", "header = \"10s\"", Both, "4:1"),
    ("limits", "head_bytes = 255", Both, "6:14"),
    ("limits", "head_bytes = \"16k\"", Both, "6:14"),
    ("limits", "head_bytes = \"1MiB\"", Check, "6:14"),
    ("limits", "head_bytes = []", Both, "6:14"),
    ("limits", "timeouts.request = \"1s\"", Both, "6:1"),
    ("paths", "encoded_slash = \"allow\"", Both, "8:17"),
    ("forwarding", "trusted_proxies = [\"10.0.0.0/33\"]", Check, "10:20"),
    ("forwarding", "fields = \"X-Forwarded\"", Both, "10:10"),
    ("listener", "address = \"127.0.0.1\"", Check, "12:11"),
    ("listener", "address = \"127.0.0.1:0\"\ntimeouts.request = \"1s\"", Both, "13:1"),
    ("servers", "servers = \"http://a\"", Both, "15:11"),
    ("servers", "servers = [\"ftp://a\"]", Check, "15:12"),
    ("servers", "servers = [\"https://a\"]\ntls = \"on\"", Both, "16:7"),
    ("servers", "servers = [\"https://a\"]\ntls.sni = \"a\"", Both, "16:5"),
    ("servers", "servers = [\"https://a\"]\ntls.pins = [\"sha256/AA==\"]", Check, "16:13"),
    ("servers", "servers = [\"http://a\"]\ntls.server_name = \"b\"", Check, "16:19"),
    ("listen", "listen_tls = [\"127.0.0.1:0\"]", Check, "1:15"),
    ("shards", "tls = true", Both, "2:7"),
    ("shards", "tls.min_version = \"1.1\"", Both, "2:19"),
    ("shards", "tls = { min_version = \"1.2\", profile = \"modern\" }", Check, "2:23"),
    ("shards", "tls.ticket_rotation = \"169h\"", Check, "2:23"),
    ("shards", "certificate = [{ cert = 5 }]", Both, "2:25"),
    ("shards", "certificate = [{ cert = \"/nonexistent.pem\" }]", Check, "2:25"),
    ("listener", "address = \"127.0.0.1:0\"\ntls = true", Both, "13:7"),
    ("listener", "address = \"127.0.0.1:0\"\nhttps_redirect = 70000", Both, "13:18"),
    ("listener", "address = \"127.0.0.1:0\"\nhttps_redirect = \"yes\"", Both, "13:18"),
    ("listener", "address = \"127.0.0.1:0\"\nclient_certificates = \"required\"", Check, "13:23"),
    ("host", "hsts = \"max-age=1y\"", Check, "18:8"),
    ("host", "client_certificate = true", Check, "18:22"),
    ("host", "client_certificate = \"yes\"", Both, "18:22"),
    ("servers", "servers = [\"http://a\"]\nweight = 3", Both, "16:1"),
    ("servers", "servers = [\"http://a\"]\nlimits.header_fields = 7", Both, "16:8"),
    ("route", "upstream = \"ap\"", Check, "17:12"),
    ("host", "host = \"a b\"", Check, "18:8"),
    ("host", "hosts = \"a\"", Both, "18:9"),
    ("host", "timeouts.upstream_connect = \"1s\"", Both, "18:10"),
    ("host", "limits = { head_bytes = 300 }", Both, "18:12"),
    ("host", "timeouts = \"10s\"", Both, "18:12"),
    ("host", "connect = [0]", Both, "18:12"),
    ("host", "connect = [70000]", Both, "18:12"),
    ("host", "send_host = \"origin\"", Both, "18:13"),
    ("host", "methods = [\"get\"]", Check, "18:12"),
];

/// A file that is in order, with the name by which each of its lines is replaced.
const SOUND: [(&str, &str); 18] = [
    ("listen", "listen = [\"127.0.0.1:0\"]"),
    ("shards", "shards = 1"),
    ("", "[timeouts]"),
    ("timeouts", "request_head = \"10s\""),
    ("", "[limits]"),
    ("limits", "head_bytes = \"16KiB\""),
    ("", "[paths]"),
    ("paths", "encoded_slash = \"keep\""),
    ("", "[forwarding]"),
    ("forwarding", "fields = \"x-forwarded\""),
    ("", "[[listener]]"),
    ("listener", "address = \"127.0.0.1:0\""),
    ("", "[[upstream]]"),
    ("", "name = \"app\""),
    ("servers", "servers = [\"http://127.0.0.1:9\"]"),
    ("", "[[route]]"),
    ("route", "upstream = \"app\""),
    ("host", "host = \"a\""),
];

fn file_with(place: &str, line: &str) -> String {
    let lines = SOUND.map(|(name, known)| if !name.is_empty() && name == place { line } else { known });
    lines.join("\n") + "\n"
}

#[tokio::test]
async fn broken_files_are_refused_at_their_line() {
    assert!(BROKEN.len() >= 40);
    let sound = file_with("", "");
    let (checked, _) = check(".toml", &sound).await;
    assert_eq!(checked.code, Some(0), "{}\n{sound}", checked.stderr);
    assert_eq!(faults(&of_toml(&sound)).await, [""; 0]);
    let mut wrong = Vec::new();
    for (place, line, by, at) in BROKEN {
        let text = file_with(place, line);
        let found = faults(&of_toml(&text)).await;
        if found.is_empty() != (*by == Check) {
            wrong.push(format!("{line}: by {by:?}, but the schema says {found:?}"));
        }
        let (checked, name) = check(".toml", &text).await;
        let is_error = |line: &&str| line.contains(&*name) && !line.contains("warning");
        let errors: Vec<_> = checked.stderr.lines().filter(is_error).collect();
        if checked.code != Some(1) || errors.len() != 1 || !errors[0].contains(&format!("{name}:{at}: ")) {
            wrong.push(format!("{line}: not {at} alone but {:?}: {}", checked.code, checked.stderr));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn what_the_environment_brings_obeys_the_schema() {
    let text = json!({
        "shards": "${SHARDS}",
        "smt": "${SMT}",
        "steering": "${STEERING}",
        "drain_timeout": "${file:/run/secrets/drain}",
        "limits": { "head_bytes": "${HEAD}KiB" },
    });
    assert_eq!(faults(&text).await, [""; 0]);
}
