//! Paths: every spelling comes down to one form, the query stays out of it, and what has two readings is refused.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use sluice_proto::Fault;
use sluice_proto::path::{
    DotSegments, EncodedControls, Parameters, PathRules, PathStore, RepeatedSlashes, SlashLike, normalize,
};

const DEFAULT: PathRules = PathRules {
    dot_segments: DotSegments::Remove,
    repeated_slashes: RepeatedSlashes::Merge,
    encoded_slash: SlashLike::Refuse,
    backslash: SlashLike::Refuse,
    encoded_controls: EncodedControls::Refuse,
    parameters: Parameters::Keep,
};
/// Everything that can be kept is.
const LENIENT: PathRules = PathRules {
    repeated_slashes: RepeatedSlashes::Keep,
    encoded_slash: SlashLike::Keep,
    backslash: SlashLike::Keep,
    encoded_controls: EncodedControls::Keep,
    ..DEFAULT
};

/// The normal form and the matching form; the query is checked on the way.
fn both(path: &str, rules: &PathRules) -> Result<(String, String), Fault> {
    let query = "?%2e%2e//..%2F;%zz";
    let target = format!("{path}{query}");
    let mut store = PathStore::default();
    let forms = normalize(&target, &target[..path.len()], rules, &mut store)?;
    assert_eq!(forms.path_and_query.strip_prefix(forms.path), Some(query));
    assert_eq!(forms.is_as_received, forms.path == path);
    Ok((forms.path.into(), forms.matching.into()))
}

fn normal(path: &str, rules: &PathRules) -> Result<String, Fault> {
    both(path, rules).map(|(normal, _)| normal)
}

#[track_caller]
fn check_all(rules: &PathRules, cases: &[(&str, Result<&str, Fault>)]) {
    for &(path, want) in cases {
        assert_eq!(normal(path, rules), want.map(String::from), "{path}");
    }
}

#[test]
fn examples_of_rfc_3986() {
    check_all(
        &DEFAULT,
        &[
            // Section 5.2.4, and the paths of 5.4 with their base.
            ("/a/b/c/./../../g", Ok("/a/g")),
            ("/b/c/g", Ok("/b/c/g")),
            ("/b/c/./g", Ok("/b/c/g")),
            ("/b/c/g/", Ok("/b/c/g/")),
            ("/b/c/.", Ok("/b/c/")),
            ("/b/c/./", Ok("/b/c/")),
            ("/b/c/..", Ok("/b/")),
            ("/b/c/../", Ok("/b/")),
            ("/b/c/../g", Ok("/b/g")),
            ("/b/c/../..", Ok("/")),
            ("/b/c/../../", Ok("/")),
            ("/b/c/../../g", Ok("/g")),
            ("/b/c/g.", Ok("/b/c/g.")),
            ("/b/c/.g", Ok("/b/c/.g")),
            ("/b/c/g..", Ok("/b/c/g..")),
            ("/b/c/..g", Ok("/b/c/..g")),
            ("/b/c/./../g", Ok("/b/g")),
            ("/b/c/./g/.", Ok("/b/c/g/")),
            ("/b/c/g/./h", Ok("/b/c/g/h")),
            ("/b/c/g/../h", Ok("/b/c/h")),
            ("/b/c/g;x=1/./y", Ok("/b/c/g;x=1/y")),
            ("/b/c/g;x=1/../y", Ok("/b/c/y")),
            // Stricter: the RFC stays at the root.
            ("/b/c/../../../g", Err(Fault::PathAboveRoot)),
            ("/../g", Err(Fault::PathAboveRoot)),
            // Section 6.2.2.
            ("/%7bfoo%7d", Ok("/%7Bfoo%7D")),
            ("/%7Esmith/home.html", Ok("/~smith/home.html")),
            ("/a/./b/../b/%63/%7bfoo%7d", Ok("/a/b/c/%7Bfoo%7D")),
        ],
    );
}

#[test]
fn every_spelling_of_a_path_is_one_path() {
    for path in [
        "/admin",
        "/%61dmin",
        "/%61%64%6d%69%6E",
        "//admin",
        "///admin",
        "/./admin",
        "/.//./admin",
        "/%2e/admin",
        "/a/../admin",
        "/x/%2e%2e/admin",
        "/x/%2E./admin",
        "/x/.%2e/admin",
        "/x//../admin",
        "/x/y/../..//admin",
    ] {
        assert_eq!(both(path, &DEFAULT), Ok(("/admin".into(), "/admin".into())), "{path}");
    }
}

#[test]
fn what_is_normal_stays() {
    check_all(
        &DEFAULT,
        &[
            ("*", Ok("*")),
            ("/", Ok("/")),
            ("/a", Ok("/a")),
            ("/a/", Ok("/a/")),
            ("/.well-known/acme", Ok("/.well-known/acme")),
            ("/...", Ok("/...")),
            ("/a/...", Ok("/a/...")),
            ("/-._~!$&'()*+,;=:@", Ok("/-._~!$&'()*+,;=:@")),
            ("/%21%24%3B%40", Ok("/%21%24%3B%40")),
            ("/%20%22%25%3F%23%C3%A9", Ok("/%20%22%25%3F%23%C3%A9")),
            ("/%252e%252e/%252F", Ok("/%252e%252e/%252F")),
        ],
    );
}

#[test]
fn what_no_uri_holds_is_encoded() {
    check_all(
        &DEFAULT,
        &[
            ("/a|b[c]^{d}`<\">", Ok("/a%7Cb%5Bc%5D%5E%7Bd%7D%60%3C%22%3E")),
            ("/a%7cb", Ok("/a%7Cb")),
            ("/a b", Err(Fault::InvalidTarget)),
            ("/a\u{e9}", Err(Fault::InvalidTarget)),
            ("/a\x01", Err(Fault::InvalidTarget)),
            ("/a#b", Err(Fault::InvalidTarget)),
            ("a/../b", Err(Fault::InvalidTarget)),
            ("a", Err(Fault::InvalidTarget)),
            ("**", Err(Fault::InvalidTarget)),
            ("", Err(Fault::InvalidTarget)),
        ],
    );
}

#[test]
fn broken_and_disguised_bytes_are_refused() {
    for rules in [DEFAULT, LENIENT] {
        check_all(
            &rules,
            &[
                ("/%", Err(Fault::InvalidPercentEncoding)),
                ("/%2", Err(Fault::InvalidPercentEncoding)),
                ("/%zz", Err(Fault::InvalidPercentEncoding)),
                ("/%u002e", Err(Fault::InvalidPercentEncoding)),
                ("/%+1", Err(Fault::InvalidPercentEncoding)),
                ("/%00", Err(Fault::EncodedControl)),
                ("/a%00.png", Err(Fault::EncodedControl)),
                ("/%c0%af", Err(Fault::OverlongEncoding)),
                ("/%C0%AE%c0%ae/", Err(Fault::OverlongEncoding)),
                ("/%e0%80%af", Err(Fault::OverlongEncoding)),
                ("/%F0%80%80%AF", Err(Fault::OverlongEncoding)),
                // Latin-1, and what is well-formed.
                ("/%c0", Ok("/%C0")),
                ("/%c0a", Ok("/%C0a")),
                ("/%e0%a4%b9", Ok("/%E0%A4%B9")),
                ("/%f0%9f%98%80", Ok("/%F0%9F%98%80")),
            ],
        );
    }
}

#[test]
fn each_rule_decides_its_own_case() {
    let with = |change: fn(&mut PathRules)| {
        let mut rules = DEFAULT;
        change(&mut rules);
        rules
    };
    let cases: &[(PathRules, &str, Result<&str, Fault>)] = &[
        (DEFAULT, "/a%2fb", Err(Fault::EncodedSlash)),
        (with(|r| r.encoded_slash = SlashLike::Keep), "/a%2fb", Ok("/a%2Fb")),
        (with(|r| r.encoded_slash = SlashLike::Slash), "/a%2fb", Ok("/a/b")),
        (with(|r| r.encoded_slash = SlashLike::Slash), "/a%2f..%2f%2fb", Ok("/b")),
        (with(|r| r.encoded_slash = SlashLike::Slash), "/%2e%2e%2fb", Err(Fault::PathAboveRoot)),
        (DEFAULT, "/a\\b", Err(Fault::Backslash)),
        (DEFAULT, "/a%5cb", Err(Fault::Backslash)),
        (with(|r| r.backslash = SlashLike::Keep), "/a\\b%5cc", Ok("/a%5Cb%5Cc")),
        (with(|r| r.backslash = SlashLike::Slash), "/x\\..%5ca\\b", Ok("/a/b")),
        (DEFAULT, "/%1f", Err(Fault::EncodedControl)),
        (DEFAULT, "/%0d%0a", Err(Fault::EncodedControl)),
        (DEFAULT, "/%7F", Err(Fault::EncodedControl)),
        (with(|r| r.encoded_controls = EncodedControls::Keep), "/%0d%0a%7f", Ok("/%0D%0A%7F")),
        (with(|r| r.repeated_slashes = RepeatedSlashes::Keep), "//a//b//", Ok("//a//b//")),
        (with(|r| r.repeated_slashes = RepeatedSlashes::Keep), "/a//../b", Ok("/a/b")),
        (with(|r| r.repeated_slashes = RepeatedSlashes::Refuse), "//a", Err(Fault::RepeatedSlash)),
        (with(|r| r.repeated_slashes = RepeatedSlashes::Refuse), "/a//", Err(Fault::RepeatedSlash)),
        (with(|r| r.repeated_slashes = RepeatedSlashes::Refuse), "/a/", Ok("/a/")),
        (with(|r| r.dot_segments = DotSegments::Refuse), "/a/./b", Err(Fault::DotSegment)),
        (with(|r| r.dot_segments = DotSegments::Refuse), "/a/%2e%2e", Err(Fault::DotSegment)),
        (with(|r| r.dot_segments = DotSegments::Refuse), "/..a/.b", Ok("/..a/.b")),
        (DEFAULT, "/admin;x=1", Ok("/admin;x=1")),
        (with(|r| r.parameters = Parameters::Ignore), "/admin;x=1", Ok("/admin;x=1")),
        (with(|r| r.parameters = Parameters::Refuse), "/admin;x", Err(Fault::PathParameter)),
        (with(|r| r.parameters = Parameters::Refuse), "/admin%3bx", Err(Fault::PathParameter)),
    ];
    for (rules, path, want) in cases {
        assert_eq!(normal(path, rules), want.map(String::from), "{path} {rules:?}");
    }
}

#[test]
fn dots_behind_a_disguise_are_refused_whatever_the_rules() {
    for path in [
        "/x/..;/admin",
        "/x/..;a=b/admin",
        "/x/.;/admin",
        "/x/%2e%2e;/admin",
        "/x/..%3b/admin",
        "/x/..;",
        "/x%2f..%2fadmin",
        "/x/..%2fadmin",
        "/x%2f..",
        "/x%5c..%5cadmin",
        "/x\\..\\admin",
        "/x\\..%2f;",
    ] {
        assert_eq!(normal(path, &LENIENT), Err(Fault::HiddenDotSegment), "{path}");
    }
    for path in ["/x/a..;b", "/x/...;b", "/x/;a..b", "/a%2F...%2Fb", "/%253B..%252F"] {
        assert_eq!(normal(path, &LENIENT), Ok(path.into()), "{path}");
    }
}

#[test]
fn routes_see_through_what_a_server_decodes() {
    let ignoring = PathRules { parameters: Parameters::Ignore, ..DEFAULT };
    for (rules, path, matching) in [
        (DEFAULT, "/users/%40me", "/users/@me"),
        (DEFAULT, "/users/@me", "/users/@me"),
        (DEFAULT, "/a%2Bb%3bc%3d%2c", "/a+b;c=,"),
        (DEFAULT, "/a;x", "/a;x"),
        (DEFAULT, "/%25%20%c3%a9", "/%25%20%C3%A9"),
        (LENIENT, "/a%2fb%40", "/a%2Fb@"),
        (ignoring, "/admin;x=1", "/admin"),
        (ignoring, "/admin%3Bx", "/admin"),
        (ignoring, "/a;x/b;y/", "/a/b/"),
        (ignoring, "/;x/admin", "/admin"),
        (ignoring, "/a/;x;y", "/a/"),
    ] {
        assert_eq!(both(path, &rules).map(|(_, matching)| matching), Ok(matching.into()), "{path}");
    }
}

#[test]
fn hostile_paths_take_no_longer_than_others() {
    // A quadratic step would take minutes for these.
    for unit in ["/..;", ";", "%2F", "%3B", "/a/..", "//", "/.", "%40", "\\"] {
        let path = format!("/{}", unit.repeat(200_000));
        let _ = normal(&path, &LENIENT);
        let _ = normal(&path, &PathRules { parameters: Parameters::Ignore, ..LENIENT });
    }
}

fn rules() -> impl Strategy<Value = PathRules> {
    let slash_like = || select(&[SlashLike::Refuse, SlashLike::Keep, SlashLike::Slash][..]);
    let dots = select(&[DotSegments::Remove, DotSegments::Refuse][..]);
    let slashes = select(&[RepeatedSlashes::Merge, RepeatedSlashes::Keep, RepeatedSlashes::Refuse][..]);
    let controls = select(&[EncodedControls::Refuse, EncodedControls::Keep][..]);
    let parameters = select(&[Parameters::Keep, Parameters::Ignore, Parameters::Refuse][..]);
    (dots, slashes, slash_like(), slash_like(), controls, parameters).prop_map(
        |(dot_segments, repeated_slashes, encoded_slash, backslash, encoded_controls, parameters)| {
            PathRules {
                dot_segments,
                repeated_slashes,
                encoded_slash,
                backslash,
                encoded_controls,
                parameters,
            }
        },
    )
}

/// Pieces of which difficult paths are made, and a few plain ones.
const PIECES: &[&str] = &[
    "/",
    "/",
    "/",
    "//",
    ".",
    "..",
    "/./",
    "/../",
    "%2e",
    "%2E",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    ";",
    "%3b",
    "%25",
    "%252e",
    "a",
    "b",
    "abc",
    "%61",
    "%7e",
    "~",
    "%40",
    "@",
    "%c3%a9",
    "%c0",
    "%af",
    "%e0",
    "%80",
    "%00",
    "%0a",
    "%7f",
    "|",
    "%7C",
    "[",
    "%",
    "%2",
    "%zz",
    "..;",
    "a-long-segment-without-anything-special",
    "=",
    "+",
    "%20",
];

fn difficult_path() -> impl Strategy<Value = String> {
    let piece = prop_oneof![8 => select(PIECES).prop_map(str::to_owned), 1 => "[ -~]{1,3}"];
    vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat().replace(['?', '#', ' '], "")))
}

/// A character in one of its spellings.
fn spelled(char: char, choice: u8) -> String {
    match choice % 4 {
        0 => format!("%{:02x}", u32::from(char)),
        1 => format!("%{:02X}", u32::from(char)),
        _ => char.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// What holds for the forms of any path, under any rules.
    #[test]
    fn the_normal_form_is_normal(path in difficult_path(), rules in rules()) {
        let Ok((normal, matching)) = both(&path, &rules) else { return Ok(()) };
        prop_assert_eq!(both(&normal, &rules), Ok((normal.clone(), matching.clone())), "idempotent");
        let outside_uris = path.bytes().filter(|byte| b"\"<>[]\\^`{|}".contains(byte)).count();
        prop_assert!(normal.len() <= path.len() + 2 * outside_uris, "{normal} of {path}");
        prop_assert!(matching.len() <= normal.len());
        prop_assert!(normal.starts_with('/') && matching.starts_with('/'));
        prop_assert!(normal.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%".contains(&b)));
        // To whatever server: one that decodes slashes, takes backslashes for slashes, or cuts off parameters.
        for part in normal.replace("%2F", "/").replace("%5C", "/").split(['/', ';']) {
            prop_assert!(!matches!(part, "." | ".."), "{normal} of {path}");
        }
        if rules.repeated_slashes != RepeatedSlashes::Keep {
            prop_assert!(!normal.contains("//") && !matching.contains("//"), "{normal} of {path}");
        }
        prop_assert!(rules.encoded_slash == SlashLike::Keep || !normal.contains("%2F"));
        prop_assert!(rules.backslash == SlashLike::Keep || !normal.contains("%5C"));
        prop_assert!(!normal.contains("%00"));
    }

    /// Two spellings of one path, made by inserting and encoding what changes nothing.
    #[test]
    fn spellings_of_one_path_are_equal(
        segments in vec("[a-z0-9~_.-]{0,2}[a-z0-9~_-]", 1..5),
        choices in vec(any::<u8>(), 40),
        detours in vec(select(&["/", "/.", "/%2e", "/x/..", "/x/%2E.", "/x/y/../..", "//x//.%2e", ""][..]), 5),
        is_directory in any::<bool>(),
    ) {
        let slash = if is_directory { "/" } else { "" };
        let plain = format!("/{}{slash}", segments.join("/"));
        let mut choices = choices.into_iter();
        let mut normalized = String::new();
        for (segment, detour) in segments.iter().zip(&detours) {
            normalized.push_str(detour);
            normalized.push('/');
            normalized.extend(segment.chars().map(|char| spelled(char, choices.next().unwrap_or(2))));
        }
        normalized.push_str(slash);
        let rules = PathRules::default();
        prop_assert_eq!(both(&normalized, &rules), both(&plain, &rules), "{} and {}", normalized, plain);
        prop_assert_eq!(normal(&plain, &rules), Ok(plain));
    }

    /// The rules only choose among readings: what two sets accept unchanged means the same to both.
    #[test]
    fn a_path_in_normal_form_under_the_strictest_rules_is_normal_under_all(path in difficult_path(), rules in rules()) {
        let strictest = PathRules {
            dot_segments: DotSegments::Refuse,
            repeated_slashes: RepeatedSlashes::Refuse,
            parameters: Parameters::Refuse,
            ..PathRules::default()
        };
        if let Ok(strict) = both(&path, &strictest) {
            prop_assert_eq!(both(&path, &rules), Ok(strict));
        }
    }
}
