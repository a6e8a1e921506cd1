//! Why the proxies differ, by topic. Written by hand after reading the differences; a topic or a case without its words
//! shows as a gap in the report.

/// What to say of requests that Sluice lets through and others do not.
pub(crate) const LAXER: &str = "each is valid by its RFC.";

/// Why Sluice lets a request through that another refuses.
pub(crate) fn laxer(case: &str) -> &'static str {
    match case {
        "a lower-case method is another method" | "a method of every token byte" => {
            "a method is any token (RFC 9110 section 9.1); nginx knows capitals, `_` and `-`"
        }
        "an asterisk with OPTIONS" | "OPTIONS with a body" => "nginx has no `*` form",
        "absolute-form with a query and no path" => "HAProxy wants a path; the missing one means `/`",
        "a Host with white space around it"
        | "a length with white space around it"
        | "chunked with white space around it" => {
            "tabs around a value are OWS (RFC 9110 section 5.6.3); nginx takes them for a part of it"
        }
        "an upgrade in HTTP/1.0" => "Upgrade has to be ignored in HTTP/1.0 (RFC 9110 section 7.8)",
        "100-continue twice" => {
            "nginx takes any repeated Expect for an error; the list is the same expectation twice"
        }
        "TRACE" | "TRACE with an empty body" => {
            "nginx never forwards TRACE; whether to reflect is the server's decision"
        }
        _ => "",
    }
}

/// What the differences of a topic come from.
pub(crate) fn topic(topic: &str) -> &'static str {
    match topic {
        "line ends" => {
            "nginx and HAProxy take LF for CRLF everywhere, as RFC 9112 section 2.2 allows a recipient to. A proxy that \
             does so agrees with half of the servers behind it and not with the other half, so Sluice wants CRLF. HAProxy \
             joins folded lines into one and passes them on; section 5.2 leaves the choice, and Sluice refuses. nginx \
             forgives a CR in front of CRLF and before the request line. More than two empty lines before a request are \
             noise to Sluice."
        }
        "request line" => {
            "RFC 9112 section 3 wants single spaces and says that leniency there is a risk; nginx takes several, HAProxy \
             tabs too. Versions: HAProxy passes any version on that has the right shape, as HTTP/1.1; nginx takes 1.2 to \
             1.99 for 1.1; Sluice takes 1.2 to 1.9 for 1.1 and answers 505 otherwise. nginx answers HTTP/0.9, whose requests have \
             no fields to check. Methods longer than 32 bytes get 501 from Sluice."
        }
        "target" => {
            "A fragment is never sent; nginx passes it on and a server that cuts it off sees another path. A malformed \
             percent-encoding in a path, and bytes above 127 that are not UTF-8, have no reading that all share; Sluice \
             percent-encodes UTF-8, the others pass it on as it is. Absolute-form is reduced to a path and has to \
             agree with Host; nginx lets the target override Host, HAProxy passes it on as it is, with user names, empty \
             hosts and other schemes. `https` without TLS has to be rejected by RFC 9110 section 7.4. HAProxy opens tunnels \
             for CONNECT."
        }
        "Host" => {
            "HAProxy leaves Host to the server, missing, repeated or malformed ones too; RFC 9112 section 3.2 wants 400 for \
             all of these. nginx looks for a few bytes that cannot be and cuts off what follows a colon. Sluice takes a \
             name, an IPv4 or an IPv6 address and a port, and nothing else: what Host names decides the route, and is \
             repeated in X-Forwarded-Host. What it lets through, it passes on as it came; nginx drops port and final dot \
             (`$host`)."
        }
        "fields" => {
            "nginx skips a line that is no field (no colon, a name that is no token) and forwards the rest, so that a \
             server may see what nginx did not. Control characters in values pass nginx (but for NUL) and HAProxy (NUL \
             too). Names with underscores: nginx drops all of them, HAProxy none, Sluice refuses those that read like a \
             field it knows. The length of Connection is bounded only by Sluice."
        }
        "Content-Length" => {
            "HAProxy merges equal lengths, which RFC 9112 section 6.3 permits; Sluice and nginx refuse any repetition. A \
             length of 2^64 overflows in HAProxy 2.6 and becomes an endless request. Sluice answers 413 before the body, \
             by its own limit."
        }
        "Transfer-Encoding" => {
            "HAProxy drops Content-Length when both framings are there (RFC 9112 section 6.1 permits it, \"ought to be \
             handled as an error\" in 6.3) and reads chunks in HTTP/1.0. Empty members of the list are seen by some \
             recipients only. nginx takes a tab for a part of the value."
        }
        "chunks and trailers" => {
            "Both others skip everything between the digits and the line end of a chunk, up to any LF: a bare semicolon, \
             white space, controls, quotes that do not close. That is what chunk-extension smuggling (TERM.EXT, EXT.TERM, \
             2025) lives on. Sluice reads the grammar of RFC 9112 section 7.1.1, bounds a line to 256 bytes, and wants the \
             data to make up for the extensions. nginx decodes chunks before it forwards and drops trailers unread; HAProxy \
             passes them on with framing and identity fields among them (RFC 9110 section 6.5.1 forbids it), sometimes \
             corrected. `waits`: the line is still being skipped."
        }
        "connection" => {
            "Sluice refuses an upgrade to anything but HTTP unless it is configured, with 400: the bytes in a tunnel are \
             not checked. nginx strips the field and forwards the request; HAProxy forwards it with the upgrade."
        }
        "semantics" => {
            "Only Sluice answers 417 to expectations it does not know (RFC 9110 section 10.1.1), and only Sluice reads \
             Max-Forwards (section 7.6.2 makes it a duty of intermediaries for TRACE and OPTIONS). TRACE with a body is \
             refused by it, and forwarded by HAProxy; nginx has no TRACE at all."
        }
        "attacks" => {
            "Put together from the differences above, with a request for `/admin` where only one side would see it. `passes \
             POST / + GET /admin` is right where the bytes are two requests and every reader agrees; it is wrong where a \
             lone LF or a skipped line made the second one."
        }
        _ => "",
    }
}
