//! Settings that are one of a few words, and the sections made of them.
//!
//! One row makes a field of the checked form, a key of the file, a flag of the command line and its help text, as in
//! `settings` for numbers. The manual is tested against this table. To add a choice, add a row.

use std::fmt::Debug;

use sluice_proto::path::{DotSegments, EncodedControls, Parameters, PathRules, RepeatedSlashes, SlashLike};

use super::problem::{Fault, closest};
use super::raw::Field;

/// One of a few words.
pub trait Choice: Copy + PartialEq + Debug + 'static {
    /// Every word and what it stands for.
    const WORDS: &'static [(&'static str, Self)];

    /// Reads a word.
    ///
    /// # Errors
    /// Any other word; the fault names those that there are.
    fn parse(text: &str) -> Result<Self, Fault> {
        if let Some((_, choice)) = Self::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*choice);
        }
        let words = || Self::WORDS.iter().map(|(word, _)| *word);
        let fault = Fault::new(format!("`{text}` is none of {}", words().collect::<Vec<_>>().join(", ")));
        Err(match closest(text, words()) {
            Some(near) => fault.hint(format!("did you mean `{near}`")),
            None => fault,
        })
    }

    /// The word for it.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, choice)| *choice == self).map_or("", |(word, _)| word)
    }
}

/// Which path a server gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathForward {
    /// The one that was compared with the routes, in its normal form.
    Normal,
    /// The client's, byte for byte.
    Received,
}

impl Choice for PathForward {
    const WORDS: &'static [(&'static str, Self)] = &[("normal", Self::Normal), ("received", Self::Received)];
}

impl Choice for DotSegments {
    const WORDS: &'static [(&'static str, Self)] = &[("remove", Self::Remove), ("refuse", Self::Refuse)];
}

impl Choice for RepeatedSlashes {
    const WORDS: &'static [(&'static str, Self)] =
        &[("merge", Self::Merge), ("keep", Self::Keep), ("refuse", Self::Refuse)];
}

impl Choice for SlashLike {
    const WORDS: &'static [(&'static str, Self)] =
        &[("refuse", Self::Refuse), ("keep", Self::Keep), ("slash", Self::Slash)];
}

impl Choice for EncodedControls {
    const WORDS: &'static [(&'static str, Self)] = &[("refuse", Self::Refuse), ("keep", Self::Keep)];
}

impl Choice for Parameters {
    const WORDS: &'static [(&'static str, Self)] =
        &[("keep", Self::Keep), ("ignore", Self::Ignore), ("refuse", Self::Refuse)];
}

/// One row of the table, for the manual and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChoiceSetting {
    /// Full key: `paths.encoded_slash`.
    pub key: &'static str,
    /// Flag: `--path-encoded-slash`.
    pub flag: &'static str,
    /// Default word.
    pub default: &'static str,
    /// All words, as in the help text: `refuse|keep`.
    pub words: &'static str,
    /// What it is.
    pub doc: &'static str,
}

/// A default of ours, which must be one of the words.
fn ours<C: Choice>(word: &str) -> C {
    C::parse(word).unwrap_or_else(|fault| panic!("choices table: {fault}"))
}

macro_rules! choices {
    (
        $(#[$meta:meta])*
        $checked:ident, raw $raw:ident, flags $flags:ident, section $section:literal, heading $heading:literal:
        $( $field:ident: $ty:ty, $flag:literal, $default:literal, $words:literal, $doc:literal; )*
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $checked {
            $( #[doc = concat!($doc, ": ", $words, ". Default ", $default, ".")] pub $field: $ty, )*
        }

        impl $checked {
            /// The rows of this table.
            pub const CHOICES: &'static [ChoiceSetting] = &[$( ChoiceSetting {
                key: concat!($section, ".", stringify!($field)),
                flag: concat!("--", $flag),
                default: $default,
                words: $words,
                doc: $doc,
            } ),*];

            /// Settles every field: the given word, or else the default.
            pub(crate) fn check(raw: &$raw) -> Self {
                Self { $( $field: raw.$field.given().map_or_else(|| ours($default), |given| given.value) ),* }
            }
        }

        impl Default for $checked {
            fn default() -> Self {
                Self::check(&$raw::default())
            }
        }

        #[doc = concat!("The `[", $section, "]` section as written.")]
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $raw {
            $( #[doc = $doc] pub $field: Field<$ty>, )*
        }

        impl $raw {
            /// The keys of the section.
            pub(crate) const KEYS: &'static [&'static str] = &[$( stringify!($field) ),*];

            /// Reads the section.
            pub(crate) fn read(walk: &mut super::raw::Walk<'_>, table: &super::source::Node) -> Self {
                let fields = walk.table(table, $section, Self::KEYS);
                Self { $( $field: fields.choice(walk, stringify!($field)) ),* }
            }

            /// Takes over what the flags say.
            pub(crate) fn set(&mut self, flags: &$flags) {
                $( if let Some(value) = flags.$field {
                    self.$field = Field::flag(concat!("--", $flag), value);
                } )*
            }
        }

        #[doc = concat!("Flags for the `[", $section, "]` section.")]
        #[derive(Debug, Clone, Default, clap::Args)]
        #[command(next_help_heading = $heading)]
        pub struct $flags {
            $( #[doc = $doc]
               #[arg(
                   id = $flag,
                   long = $flag,
                   value_name = $words,
                   value_parser = <$ty as Choice>::parse,
                   help = concat!($doc, " [default: ", $default, "]")
               )]
               pub $field: Option<$ty>, )*
        }
    };
}

choices! {
    /// What Sluice makes of the different spellings of a path.
    Paths, raw RawPaths, flags PathFlags, section "paths", heading "Paths":

    forward: PathForward, "path-forward", "normal", "normal|received",
        "The path that servers get: the one compared with the routes, or the client's byte for byte";
    dot_segments: DotSegments, "path-dot-segments", "remove", "remove|refuse",
        "Segments . and .., also encoded; those that lead above the root are always refused";
    repeated_slashes: RepeatedSlashes, "path-repeated-slashes", "merge", "merge|keep|refuse",
        "Several slashes in a row";
    encoded_slash: SlashLike, "path-encoded-slash", "refuse", "refuse|keep|slash",
        "%2F: refused, kept as it is, or read as a slash";
    backslash: SlashLike, "path-backslash", "refuse", "refuse|keep|slash",
        "A backslash and %5C: refused, kept encoded, or read as a slash";
    encoded_controls: EncodedControls, "path-encoded-controls", "refuse", "refuse|keep",
        "Encoded control characters; %00 is always refused";
    parameters: Parameters, "path-parameters", "keep", "keep|ignore|refuse",
        "A ; in a segment and what follows it there: a part of the segment, unseen by routes, or refused";
}

impl Paths {
    /// The rules for reading paths.
    pub fn rules(&self) -> PathRules {
        PathRules {
            dot_segments: self.dot_segments,
            repeated_slashes: self.repeated_slashes,
            encoded_slash: self.encoded_slash,
            backslash: self.backslash,
            encoded_controls: self.encoded_controls,
            parameters: self.parameters,
        }
    }
}

/// Every row of every table.
pub fn all() -> impl Iterator<Item = &'static ChoiceSetting> {
    Paths::CHOICES.iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_texts_are_the_words_there_are() {
        fn words<C: Choice>(_: C) -> String {
            C::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join("|")
        }
        let paths = Paths::default();
        let there_are = [
            words(paths.forward),
            words(paths.dot_segments),
            words(paths.repeated_slashes),
            words(paths.encoded_slash),
            words(paths.backslash),
            words(paths.encoded_controls),
            words(paths.parameters),
        ];
        assert!(Paths::CHOICES.iter().map(|row| row.words).eq(there_are));
    }

    #[test]
    fn defaults_are_those_of_the_protocol_crate() {
        assert_eq!(Paths::default().rules(), PathRules::default());
    }

    #[test]
    fn flags_are_named_after_keys() {
        for row in all() {
            let (section, key) = row.key.split_once('.').unwrap();
            let section = section.trim_end_matches('s');
            assert_eq!(row.flag, format!("--{section}-{}", key.replace('_', "-")));
        }
    }

    #[test]
    fn a_word_that_is_none_gets_a_hint() {
        assert_eq!(SlashLike::parse("keep"), Ok(SlashLike::Keep));
        let fault = SlashLike::parse("keeep").unwrap_err().to_string();
        assert_eq!(fault, "`keeep` is none of refuse, keep, slash (hint: did you mean `keep`)");
        assert_eq!(Parameters::Ignore.word(), "ignore");
    }
}
