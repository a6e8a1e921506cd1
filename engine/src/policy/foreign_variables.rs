//! Variables as other proxies write them. They would be sent as they stand, where an operator means the client's address.

use crate::config::Fault;

/// Of nginx, and ours.
const NGINX: &[(&str, &str)] = &[
    ("remote_addr", "${client.ip}"),
    ("binary_remote_addr", "${client.ip}"),
    ("remote_port", "${client.port}"),
    ("host", "${host}"),
    ("http_host", "${authority}"),
    ("request_uri", "${uri}"),
    ("uri", "${path}"),
    ("document_uri", "${path}"),
    ("args", "${query}"),
    ("query_string", "${query}"),
    ("request_method", "${method}"),
    ("scheme", "${scheme}"),
    ("request_id", "${request.id}"),
    ("proxy_add_x_forwarded_for", "[forwarding], which adds the client"),
];

/// Their beginnings, and ours.
const NGINX_NAMED: &[(&str, &str)] = &[("http_", "header."), ("cookie_", "cookie."), ("arg_", "query.")];

/// Refuses a text with such a variable. Any other `$` stands for itself.
pub(super) fn check(text: &str, has_captures: bool) -> Result<(), Fault> {
    for behind in text.split('$').skip(1) {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = &behind[..behind.find(|c| !is_part(c)).unwrap_or(behind.len())];
        let fault = || Fault::new(format!("`${name}` is a variable of nginx"));
        if has_captures && name.len() == 1 && name.bytes().all(|byte| byte.is_ascii_digit()) {
            let hint = "give the group a name, as in (?<id>[0-9]+), and write ${path.id}";
            return Err(fault().hint(hint));
        }
        if let Some((_, ours)) = NGINX.iter().find(|(known, _)| *known == name) {
            return Err(fault().hint(format!("write {ours}")));
        }
        let named = NGINX_NAMED.iter().find_map(|(start, ours)| Some((ours, name.strip_prefix(start)?)));
        if let Some((ours, rest)) = named.filter(|(_, rest)| !rest.is_empty()) {
            let rest = if *ours == "header." { rest.replace('_', "-") } else { rest.to_owned() };
            return Err(fault().hint(format!("write ${{{ours}{rest}}}")));
        }
    }
    for (start, whose) in
        [("%[", "HAProxy"), ("%REQ(", "Envoy"), ("%DOWNSTREAM_", "Envoy"), ("{{", "Go templates")]
    {
        if text.contains(start) {
            let fault = Fault::new(format!("`{start}` begins a variable of {whose}"));
            return Err(fault.hint("variables are written as ${client.ip}, ${header.NAME}, ${path}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_are_refused_and_other_dollars_are_not() {
        for (text, words) in [
            ("$remote_addr", "write ${client.ip}"),
            ("a $http_x_real_ip b", "write ${header.x-real-ip}"),
            ("$cookie_user", "write ${cookie.user}"),
            ("/i/$1", "write ${path.id}"),
            ("$request_uri/", "write ${uri}"),
            ("%[src]", "a variable of HAProxy"),
            ("%DOWNSTREAM_REMOTE_ADDRESS%", "a variable of Envoy"),
            ("{{client.ip}}", "Go templates"),
        ] {
            let fault = check(text, true).expect_err(text);
            assert!(format!("{fault:?}").contains(words), "{text}: {fault:?}");
        }
        for text in ["$", "a$b", "100%", "$hosts", "${", "http_", "$http_", "{}"] {
            check(text, true).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
        }
        assert!(check("$5.00", false).is_ok(), "a price, where there is no path to rewrite");
    }
}
