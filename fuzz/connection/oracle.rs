//! Readers of HTTP/1.1 as they should not be: each forgives what others have been seen to forgive.
//!
//! Bytes that Sluice accepts must be read by all of them in the same way. They share no code with `sluice_proto`.

/// What a reader forgives.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// A line may end with LF alone.
    pub takes_lf: bool,
    /// Transfer-Encoding decides when there is a length as well.
    pub prefers_chunks: bool,
}

pub const STYLES: [Style; 4] = [
    Style { takes_lf: false, prefers_chunks: false },
    Style { takes_lf: false, prefers_chunks: true },
    Style { takes_lf: true, prefers_chunks: false },
    Style { takes_lf: true, prefers_chunks: true },
];

/// A message: its first line and its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub start: Vec<u8>,
    pub body: Vec<u8>,
}

/// The requests that a reader of this style finds, up to the first that is not whole.
pub fn requests(bytes: &[u8], style: Style) -> Vec<Message> {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        while matches!(bytes.get(at), Some(b'\r' | b'\n')) {
            at += 1;
        }
        let Some((message, used)) = message(&bytes[at..], style, false) else { return found };
        found.push(message);
        at += used;
    }
}

/// The responses that a reader of this style finds, to requests of which some are HEAD; and the bytes they take.
pub fn responses(bytes: &[u8], is_head: impl Fn(usize) -> bool, style: Style) -> (Vec<Message>, usize) {
    let (mut found, mut at, mut finals) = (Vec::new(), 0, 0);
    while let Some((message, used)) = message(&bytes[at..], style, is_head(finals)) {
        at += used;
        let is_interim = message.start.get(9) == Some(&b'1');
        if !is_interim {
            finals += 1;
            found.push(message);
        }
    }
    (found, at)
}

fn message(bytes: &[u8], style: Style, is_head: bool) -> Option<(Message, usize)> {
    let (mut at, mut lines) = (0, Vec::<Vec<u8>>::new());
    loop {
        let (line, used) = line(&bytes[at..], style)?;
        at += used;
        match lines.last_mut() {
            _ if line.is_empty() => break,
            Some(last) if matches!(line[0], b' ' | b'\t') => last.extend_from_slice(line),
            _ => lines.push(line.to_vec()),
        }
    }
    let start = lines.first()?.clone();
    let value = |name: &str| {
        lines[1..].iter().find_map(|line| {
            let colon = line.iter().position(|&b| b == b':')?;
            line[..colon]
                .trim_ascii()
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| line[colon + 1..].trim_ascii())
        })
    };
    let length =
        value("content-length").map(|digits| std::str::from_utf8(digits).ok()?.parse::<usize>().ok());
    let is_chunked = value("transfer-encoding")
        .is_some_and(|list| list.to_ascii_lowercase().windows(7).any(|window| window == b"chunked"));
    let is_bodiless = is_head
        || (start.starts_with(b"HTTP/1.") && matches!(start.get(9..12), Some(b"204" | b"304" | [b'1', ..])));
    let rest = &bytes[at..];
    let (body, used) = match length {
        _ if is_bodiless => (Vec::new(), 0),
        None if is_chunked => chunks(rest, style)?,
        Some(_) if is_chunked && style.prefers_chunks => chunks(rest, style)?,
        None if start.starts_with(b"HTTP/1.") => (rest.to_vec(), rest.len()),
        None => (Vec::new(), 0),
        Some(length) => {
            let length = length?;
            (rest.get(..length)?.to_vec(), length)
        }
    };
    Some((Message { start, body }, at + used))
}

/// A line without its end, and the bytes it takes.
fn line(bytes: &[u8], style: Style) -> Option<(&[u8], usize)> {
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|&b| b == b'\n')?;
        let has_cr = at > 0 && bytes[at - 1] == b'\r';
        if has_cr || style.takes_lf {
            return Some((&bytes[..at - usize::from(has_cr)], at + 1));
        }
        from = at + 1;
    }
}

fn chunks(bytes: &[u8], style: Style) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (size_line, used) = line(&bytes[at..], style)?;
        at += used;
        let digits = size_line.split(|b| !b.is_ascii_hexdigit()).next().unwrap_or_default();
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        at += line(&bytes[at..], style)?.1;
    }
    loop {
        let (trailer, used) = line(&bytes[at..], style)?;
        at += used;
        if trailer.is_empty() {
            return Some((body, at));
        }
    }
}
