//! Keys that operators know from nginx, HAProxy, Caddy, Envoy and Traefik: where Sluice has the same, or that it has not yet.
//!
//! For the hint of an unknown key. Names are compared in lower case and with `_`, so that `Health-Check` is `health_check`.

/// What Sluice has in place of a key that it does not know.
pub(super) fn hint(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace(['-', ' ', '.'], "_");
    KEYS.iter().find(|(names, _)| names.contains(&key.as_str())).map(|&(_, hint)| hint)
}

/// What a key that others have is called in this section, where `hint` would lead to another place: our key, and what to write.
pub(super) fn hint_in(section: &str, key: &str) -> Option<(&'static str, &'static str)> {
    let mut all = IN_SECTIONS.iter();
    all.find(|(place, names, ..)| *place == section && names.contains(&key))
        .map(|&(.., ours, hint)| (ours, hint))
}

/// What to write for a value that others have for one of our keys.
pub(super) fn value_hint(key: &str, value: &str) -> Option<&'static str> {
    let value = value.to_ascii_lowercase().replace(['-', ' '], "_");
    VALUES
        .iter()
        .find(|(ours, values, _)| *ours == key && values.contains(&value.as_str()))
        .map(|&(.., hint)| hint)
}

/// The variable of requests that others call so: nginx (`$remote_addr`), HAProxy (`%[src]`), Caddy (`{remote_host}`).
pub(super) fn variable(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    if let Some((_, ours)) = VARIABLES.iter().find(|(names, _)| names.contains(&name.as_str())) {
        return Some((*ours).to_owned());
    }
    let named = |beginning, ours: &str| {
        let rest = name.strip_prefix(beginning).filter(|rest: &&str| !rest.is_empty())?;
        Some((ours.to_owned(), rest.to_owned()))
    };
    let field = || named("header_", "header.").or_else(|| named("http_", "header."));
    if let Some((ours, rest)) = field() {
        return Some(if rest == "host" { "host".to_owned() } else { ours + &rest.replace('_', "-") });
    }
    named("cookie_", "cookie.").or_else(|| named("arg_", "query.")).map(|(ours, rest)| ours + &rest)
}

/// A section, what others call a key of it, ours, and the hint.
type InSection = (&'static str, &'static [&'static str], &'static str, &'static str);

const IN_SECTIONS: &[InSection] = &[
    ("timeouts", &["connect"], "upstream_connect", "write `upstream_connect`"),
    (
        "timeouts",
        &["keepalive", "keep_alive", "http_keep_alive"],
        "",
        "write `keep_alive_idle` for connections of clients, `upstream_idle` for kept ones to servers",
    ),
    ("upstream.health", &["uri", "url"], "path", "write `path`, such as path = \"/healthz\""),
    ("upstream.sticky", &["name"], "cookie", "write `cookie`, such as cookie = \"srv\""),
    ("route.split", &["name"], "upstream", "write `upstream`, such as { upstream = \"app\", weight = 1 }"),
    (
        "upstream.server",
        &["address", "host", "server", "addr"],
        "url",
        "write `url`, such as url = \"http://10.0.0.9:80\"",
    ),
    (
        "upstream",
        &["keepalive", "keep_alive"],
        "",
        "connections are kept anyway; write `limits.upstream_idle_connections` for the most of them",
    ),
    (
        "limits",
        &["keepalive", "keep_alive"],
        "upstream_idle_connections",
        "write `upstream_idle_connections` for those kept to servers, `requests_per_connection` for those of clients",
    ),
    (
        "upstream.resolve",
        &["valid", "ttl", "interval"],
        "",
        "names are resolved by their TTL; write `max` for the longest time, `min` for the shortest",
    ),
];

/// One of our keys, values that others have for it, and the hint.
const VALUES: &[(&str, &[&str], &str)] = &[
    (
        "balance",
        &["least_conn", "leastconn", "least_connections", "least_request"],
        "write \"least_requests\"",
    ),
    ("balance", &["ip_hash", "source", "source_ip"], "write \"hash\", with hash_by = \"client\" beside it"),
    (
        "balance",
        &["ring_hash", "maglev", "uri", "consistent_hash"],
        "write \"hash\", with hash_by beside it, such as \"header x-user\", \"cookie id\" or \"client\"",
    ),
    (
        "balance",
        &["random", "p2c", "power_of_two_choices"],
        "write \"two_choices\": the better of two at random",
    ),
    (
        "balance",
        &["roundrobin", "wrr", "static_rr", "weighted_round_robin"],
        "write \"round_robin\", which heeds weights",
    ),
];

/// What others call a variable, and our name of it.
const VARIABLES: &[(&[&str], &str)] = &[
    (&["remote_addr", "remote_host", "client_ip", "src", "binary_remote_addr"], "client.ip"),
    (&["remote_port", "client_port"], "client.port"),
    (&["request_id", "unique_id"], "request.id"),
    (&["request_uri"], "uri"),
    (&["document_uri", "request_path"], "path"),
    (&["args", "query_string"], "query"),
    (&["request_method"], "method"),
    (&["server_name", "hostname"], "host"),
    (&["http_host", "hostport"], "authority"),
];

/// Names that mean the same, and the hint for them.
const KEYS: &[(&[&str], &str)] = &[
    // What is served, and for whom.
    (
        &["server_name", "server_names", "domain", "domains", "hostname", "hostnames"],
        "write `host` in a [[route]]",
    ),
    (
        &["location", "locations", "handle", "handle_path", "match", "rule", "uri", "url_path"],
        "write `path` or `path_prefix` in a [[route]]",
    ),
    (&["method", "verbs"], "write `methods` in a [[route]], as a list"),
    (
        &["virtual_host", "virtual_hosts", "vhost", "site", "sites", "http", "router", "routers", "routes"],
        "each host and path is a [[route]]",
    ),
    (
        &["proxy_pass", "reverse_proxy", "use_backend", "default_backend", "pass", "forward_to", "target"],
        "write `upstream` in a [[route]], with the name of an [[upstream]]",
    ),
    (
        &["backend", "backends", "cluster", "clusters", "pool", "pools", "upstreams", "service", "services"],
        "a group of servers is an [[upstream]] with `name` and `servers`",
    ),
    (
        &["endpoints", "targets", "members", "load_assignment"],
        "servers are the list `servers` of an [[upstream]]",
    ),
    (
        &["bind", "port", "frontend", "entrypoint", "entrypoints", "entry_points", "listeners"],
        "write `listen = [\"127.0.0.1:8080\"]` at the top of the file, or a [[listener]]",
    ),
    (
        &["accept_proxy", "send_proxy", "send_proxy_v2"],
        "write `proxy_protocol` in a [[listener]] (for clients) or an [[upstream]] (for servers)",
    ),
    (
        &[
            "set_real_ip_from",
            "real_ip_header",
            "real_ip_recursive",
            "forwarded_headers",
            "xff_num_trusted_hops",
            "trusted",
        ],
        "write `trusted_proxies` in [forwarding]",
    ),
    (
        &["forwardfor", "option_forwardfor", "x_forwarded_for"],
        "X-Forwarded-For is always set; see [forwarding]",
    ),
    (
        &["proxy_http_version", "http_version", "proto", "grpc_pass", "grpc"],
        "write `protocol = \"h2\"` in an [[upstream]], or h2c:// in its `servers`; HTTP/1.1 is the default",
    ),
    (
        &["h2", "h2c", "alpn", "http2_protocol_options", "enable_h2c"],
        "HTTP/2 is on: `enabled` in [http2], `http2` in a [[listener]]; for servers `protocol = \"h2\"` in an [[upstream]]",
    ),
    (
        &[
            "http2_max_concurrent_streams",
            "tune_h2_max_concurrent_streams",
            "max_concurrent_streams",
            "maxconcurrentstreams",
        ],
        "write `streams` in [http2]",
    ),
    (
        &["proxy_buffering", "proxy_request_buffering", "buffering"],
        "nothing to switch off: bodies are always streamed",
    ),
    (&["websockets", "upgrade_configs"], "write `upgrade = [\"websocket\"]` in a [[route]]"),
    // What is limited, and how it runs.
    (
        &["timeout", "proxy_read_timeout", "timeout_server", "response_timeout", "read_timeout"],
        "write `upstream_response` or `request` in [timeouts], for all, an upstream or a route",
    ),
    (
        &["proxy_connect_timeout", "timeout_connect", "connect_timeout"],
        "write `upstream_connect` in [timeouts]",
    ),
    (
        &["proxy_send_timeout", "send_timeout", "timeout_client", "write_timeout"],
        "write `write_stall` in [timeouts]",
    ),
    (
        &["client_header_timeout", "timeout_http_request", "read_header_timeout", "request_headers_timeout"],
        "write `request_head` in [timeouts]",
    ),
    (&["client_body_timeout"], "write `body_idle` in [timeouts]"),
    (
        &["keepalive_timeout", "timeout_http_keep_alive", "idle_timeout", "timeout_tunnel"],
        "write `keep_alive_idle`, `upstream_idle` or `tunnel_idle` in [timeouts]",
    ),
    (
        &["worker_shutdown_timeout", "hard_stop_after", "grace_period", "shutdown_timeout"],
        "write `drain_timeout` at the top of the file",
    ),
    (
        &["keepalive", "keep_alive"],
        "connections are kept anyway; write `keep_alive_idle` in [timeouts] for clients, `upstream_idle_connections` in [limits] for servers",
    ),
    (
        &["keepalive_requests", "max_requests_per_connection", "pool_max_conn"],
        "write `requests_per_connection` or `upstream_idle_connections` in [limits]",
    ),
    (
        &["client_max_body_size", "max_body_size", "max_size", "request_body"],
        "write `body_bytes` in [limits], for all, an upstream or a route",
    ),
    (
        &[
            "large_client_header_buffers",
            "client_header_buffer_size",
            "max_header_size",
            "max_request_headers_kb",
        ],
        "write `head_bytes` in [limits]",
    ),
    (
        &["maxconn", "worker_connections", "max_connections", "connection_limit"],
        "write `connections` in [limits]",
    ),
    (&["limit_conn", "limit_conn_zone", "max_conns_per_ip"], "write `connections_per_address` in [limits]"),
    (
        &["worker_processes", "workers", "threads", "nbthread", "nbproc", "concurrency"],
        "write `shards` at the top of the file",
    ),
    (
        &["worker_cpu_affinity", "cpu_map", "cpu_affinity"],
        "write `cpus` or `placement` at the top of the file",
    ),
    (
        &["stats", "stub_status", "prometheus", "admin", "metrics_address", "monitoring"],
        "write `metrics = \"127.0.0.1:9145\"` at the top of the file",
    ),
    (
        &["user", "group", "daemon", "pid", "pidfile", "chroot"],
        "not for Sluice to do: let systemd start it (`User=`); it stays in the foreground",
    ),
    // TLS.
    (
        &[
            "ssl_certificate",
            "ssl_certificate_key",
            "certificates",
            "crt",
            "key_file",
            "cert_file",
            "keyfile",
            "certfile",
            "tls_certificate",
            "tls_certificates",
            "certificate_chain",
            "private_key",
        ],
        "write `cert` and `key` in a [[certificate]]",
    ),
    (
        &[
            "ssl",
            "tls_context",
            "downstream_tls_context",
            "common_tls_context",
            "transport_socket",
            "ssl_engine",
        ],
        "write `listen_tls` at the top of the file or `tls` in a [[listener]], and a [[certificate]]; servers are https://",
    ),
    (
        &[
            "ssl_protocols",
            "ssl_min_ver",
            "minversion",
            "tls_version",
            "tls_params",
            "tls_minimum_protocol_version",
            "protocols",
        ],
        "write `min_version` in [tls] or a [[listener]]",
    ),
    (
        &[
            "ssl_ciphers",
            "ssl_ciphersuites",
            "ciphers",
            "cipher_suites",
            "ciphersuites",
            "curves",
            "ssl_ecdh_curve",
            "ssl_prefer_server_ciphers",
            "ssl_dhparam",
            "ssl_conf_command",
        ],
        "write `profile` in [tls] or a [[listener]]: it chooses ciphers and groups",
    ),
    (
        &[
            "ssl_client_certificate",
            "ssl_verify_client",
            "ssl_verify_depth",
            "ca_file",
            "client_auth",
            "clientauth",
            "mtls",
            "require_client_certificate",
            "validation_context",
        ],
        "write `client_certificates` and `client_ca` in a [[listener]]",
    ),
    (
        &[
            "ssl_stapling",
            "ssl_stapling_file",
            "ssl_stapling_verify",
            "ocsp_staple",
            "ocsp_stapling",
            "ocsp_update",
        ],
        "write `ocsp`, a file, in a [[certificate]]",
    ),
    (
        &[
            "ssl_session_cache",
            "ssl_session_tickets",
            "ssl_session_ticket_key",
            "ssl_session_timeout",
            "session_ticket_keys",
            "tls_ticket_keys",
        ],
        "sessions are resumed on every shard; `ticket_lifetime` in [tls], and `state_dir` at the top of the file",
    ),
    (&["ssl_handshake_timeout", "handshake_timeout"], "write `tls_handshake` in [timeouts]"),
    (
        &[
            "proxy_ssl_verify",
            "ssl_verify",
            "tls_insecure_skip_verify",
            "insecure_skip_verify",
            "insecureskipverify",
        ],
        "write `verify` in [upstream.tls]",
    ),
    (
        &["proxy_ssl_trusted_certificate", "tls_trust_pool", "tls_trusted_ca_certs", "rootcas", "trusted_ca"],
        "write `ca` in [upstream.tls]",
    ),
    (
        &["proxy_ssl_name", "proxy_ssl_server_name", "sni", "tls_server_name", "verifyhost"],
        "write `server_name` in [upstream.tls]",
    ),
    (
        &["proxy_ssl_certificate", "proxy_ssl_certificate_key", "tls_client_auth"],
        "write `cert` and `key` in [upstream.tls]",
    ),
    (
        &["proxy_ssl_protocols", "proxy_ssl_ciphers", "upstream_tls_context"],
        "write `min_version` in [upstream.tls]; servers with TLS are https://",
    ),
    (
        &[
            "autohttps",
            "auto_https",
            "automatic_https",
            "letsencrypt",
            "certbot",
            "certresolver",
            "certificatesresolvers",
            "acme_ca",
            "email",
        ],
        "write `hosts` and `contact` in [acme]",
    ),
    (
        &["ssl_redirect", "redirect_scheme", "redirect_to_https", "force_https", "https_only", "require_tls"],
        "write `https_redirect` in the [[listener]] for http://",
    ),
    (
        &["strict_transport_security", "stsseconds", "hsts_max_age"],
        "write `hsts` in a [[route]], with the value of the header",
    ),
    (&["sslkeylogfile", "ssl_key_log", "keylog", "keylogfile"], "write `key_log` in [tls]"),
    (
        &[
            "lb_policy",
            "load_balancing",
            "least_conn",
            "leastconn",
            "ip_hash",
            "hash",
            "least_request",
            "ring_hash",
            "maglev",
            "random",
        ],
        "write `balance` in an [[upstream]]: round_robin, least_requests, two_choices, or hash with `hash_by`",
    ),
    (
        &["hash_policy", "hash_key", "consistent_hash", "hash_type"],
        "write `hash_by` in an [[upstream]], with balance = \"hash\"",
    ),
    (&["hash_balance_factor"], "write `hash_load` in an [[upstream]], with balance = \"hash\""),
    (
        &["sticky_cookie", "sticky_sessions", "stick_table", "session_affinity", "stateful_session"],
        "write `sticky` in an [[upstream]], such as sticky = { cookie = \"srv\" }",
    ),
    (&["slowstart", "slow_start_config"], "write `slow_start` in an [[upstream]], such as \"30s\""),
    (&["weights", "load_balancing_weight"], "write `weight` in [[upstream.server]], behind an [[upstream]]"),
    (
        &["max_conns", "maxconns", "max_pending_requests", "maxqueue"],
        "write `upstream_connections` and `upstream_queue` in [limits] of an [[upstream]], or `connections` in [[upstream.server]]",
    ),
    (&["timeout_queue", "queue_timeout"], "write `upstream_queue` in [timeouts]"),
    (&["proxy_bind", "upstream_bind_config", "bind_address"], "write `source_addresses` in an [[upstream]]"),
    (
        &["unix", "unix_socket", "uds", "abns"],
        "write unix:/run/app.sock in `servers` of an [[upstream]], or in `listen`",
    ),
    (
        &["proxy_ignore_client_abort", "abortonclose", "option_abortonclose"],
        "write `on_client_close`, at the top of the file or in a [[route]]",
    ),
    // What is not there yet, among what is.
    (
        &["http3", "quic", "h3", "quic_bind"],
        "not there yet: HTTP/3; clients and servers speak HTTP/1.1 and HTTP/2",
    ),
    (
        &[
            "health_check",
            "health_checks",
            "healthcheck",
            "option_httpchk",
            "health_uri",
            "health_path",
            "health_interval",
            "httpchk",
            "inter",
        ],
        "write `health` in an [[upstream]], such as health = { path = \"/healthz\" }",
    ),
    (
        &["outlier_detection", "max_fails", "fail_timeout", "observe", "error_limit"],
        "write `failures` and `time` in [upstream.ejection], behind an [[upstream]]; it is on by default",
    ),
    (
        &[
            "retries",
            "retry_on",
            "retry_policy",
            "num_retries",
            "proxy_next_upstream",
            "proxy_next_upstream_tries",
            "redispatch",
            "hedge_policy",
        ],
        "write `attempts` and `on` in [retry], for all, an upstream or a route",
    ),
    (
        &["redirects", "return", "redir", "static_response", "http_redirect"],
        "write `redirect` or `respond` in a [[route]]",
    ),
    (
        &["error_page", "errorfile", "errorfiles", "handle_errors", "custom_errors"],
        "write `error_pages`, here or in a [[route]]",
    ),
    (
        &["rewrites", "uri_strip_prefix", "stripprefix", "prefix_rewrite", "replace_path", "add_prefix"],
        "write `rewrite` or `strip_prefix` in a [[route]]",
    ),
    (
        &[
            "add_header",
            "proxy_set_header",
            "set_header",
            "header",
            "headers",
            "header_up",
            "header_down",
            "request_header",
            "hide_header",
            "proxy_hide_header",
        ],
        "write `request_headers` or `response_headers`; Host is `set_host` in a [[route]], X-Forwarded-* are in [forwarding]",
    ),
    (
        &["gzip", "gzip_types", "brotli", "compress", "compression", "encode", "deflate", "zstd"],
        "not there yet: bodies pass as servers encode them",
    ),
    (&["cache", "proxy_cache", "proxy_cache_path", "expires"], "not there yet: nothing is cached"),
    (
        &["root", "alias", "index", "try_files", "file_server", "static", "autoindex"],
        "not for Sluice: it serves no files; name a server that does in an [[upstream]]",
    ),
    (
        &["fastcgi_pass", "uwsgi_pass", "scgi_pass", "php_fastcgi"],
        "not there yet: servers are asked in HTTP/1.1 or HTTP/2 only",
    ),
    (
        &["auth_basic", "basic_auth", "basicauth", "auth_request", "forward_auth", "jwt", "oauth"],
        "not there yet: authentication",
    ),
    (
        &["allow", "deny", "acl", "ip_allow_list", "ipwhitelist", "whitelist", "blacklist"],
        "not there yet: lists of clients by address; use the firewall",
    ),
    (
        &["limit_req", "limit_req_zone", "rate_limit", "ratelimit", "limit_rate"],
        "not there yet: rates of requests; [limits] has `connections_per_address` and `abuse_score`",
    ),
    (
        &["access_log", "accesslog", "error_log", "log", "logs", "logging"],
        "not there yet: an access log; messages go to stderr, counters to `metrics`",
    ),
    (
        &["resolver", "resolvers", "dns", "dns_resolvers", "dns_refresh_rate", "nameserver"],
        "names are resolved by their TTL; write `nameservers`, `min` and `max` in [upstream.resolve]",
    ),
    (&["request_mirror_policies", "mirroring", "proxy_mirror"], "write `mirror` in a [[route]]"),
    (
        &["split_clients", "canary", "weighted_clusters", "traffic_split"],
        "write `split` in a [[route]]: [{ upstream = \"a\", weight = 95 }, { upstream = \"b\", weight = 5 }]",
    ),
    (&["regex", "path_regexp", "path_reg", "safe_regex"], "write `path_regex` in a [[route]]"),
    (
        &["condition", "conditions", "matchers", "header_matchers", "query_parameters"],
        "write `when` in a [[route]]: [\"header x-version = 2\", \"client 10.0.0.0/8\"]",
    ),
    (
        &["circuit_breakers"],
        "write `requests` or `failure_percent` in [upstream.breaker], behind an [[upstream]]",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_is_there_twice_or_spelled_as_it_is_never_looked_for() {
        let mut all: Vec<&str> = KEYS.iter().flat_map(|(names, _)| *names).copied().collect();
        assert!(
            all.iter()
                .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
        all.sort_unstable();
        let twice: Vec<_> = all.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(all.len() > 100, "{}", all.len());
    }

    /// What they name is there, and nothing is said of a key that is ours.
    #[test]
    fn hints_of_sections_name_keys_of_theirs() {
        for (place, names, ours, hint) in IN_SECTIONS {
            let section = crate::config::table::SECTIONS.iter().find(|section| section.name == *place);
            let section = section.unwrap_or_else(|| panic!("there is no [{place}]"));
            assert!(ours.is_empty() || section.find(ours).is_some(), "[{place}] has no {ours}");
            assert!(ours.is_empty() || hint.contains(&format!("`{ours}`")), "{hint}");
            assert!(names.iter().all(|name| section.find(name).is_none()), "{names:?} of [{place}]");
        }
    }

    #[test]
    fn variables_of_others_have_a_name_of_ours() {
        for (theirs, ours) in [
            ("remote_addr", Some("client.ip")),
            ("header_host", Some("host")),
            ("http_host", Some("authority")),
            ("http_x_forwarded_for", Some("header.x-forwarded-for")),
            ("cookie_id", Some("cookie.id")),
            ("arg_q", Some("query.q")),
            ("http_", None),
            ("HOME", None),
        ] {
            assert_eq!(variable(theirs).as_deref(), ours, "{theirs}");
        }
    }

    #[test]
    fn other_spellings_are_found_and_other_words_are_not() {
        for key in ["health_check", "Health-Check", "health check", "option httpchk"] {
            assert!(hint(key).is_some_and(|hint| hint.starts_with("write `health`")), "{key}");
        }
        for key in ["", "x", "listen", "healthy"] {
            assert_eq!(hint(key), None, "{key}");
        }
    }

    /// What each says, in the words that count.
    #[test]
    fn the_common_keys_of_others_have_a_place_or_are_not_there_yet() {
        for (keys, words) in [
            ("server_name domain", "`host` in a [[route]]"),
            ("location handle", "`path` or `path_prefix`"),
            ("proxy_pass reverse_proxy default_backend", "`upstream` in a [[route]]"),
            ("backend cluster service", "an [[upstream]] with `name` and `servers`"),
            ("endpoints", "the list `servers`"),
            ("bind port frontend", "`listen = "),
            ("accept_proxy send_proxy", "`proxy_protocol`"),
            ("set_real_ip_from real_ip_header", "`trusted_proxies` in [forwarding]"),
            ("proxy_buffering", "always streamed"),
            ("websockets", "`upgrade = [\"websocket\"]`"),
            ("timeout proxy_read_timeout", "`upstream_response` or `request` in [timeouts]"),
            ("proxy_connect_timeout connect_timeout", "`upstream_connect` in [timeouts]"),
            ("client_header_timeout", "`request_head` in [timeouts]"),
            ("client_body_timeout", "`body_idle` in [timeouts]"),
            ("keepalive_timeout", "`keep_alive_idle`"),
            ("client_max_body_size", "`body_bytes` in [limits]"),
            ("maxconn worker_connections", "`connections` in [limits]"),
            ("limit_conn", "`connections_per_address` in [limits]"),
            ("worker_processes nbthread threads", "`shards`"),
            ("stats stub_status", "`metrics = "),
            ("user daemon", "systemd"),
            ("ssl_certificate crt", "`cert` and `key` in a [[certificate]]"),
            ("ssl transport_socket", "`listen_tls`"),
            ("ssl_protocols ssl_min_ver", "`min_version` in [tls]"),
            ("ssl_ciphers curves", "`profile` in [tls]"),
            ("ssl_client_certificate ssl_verify_client ca_file", "`client_certificates` and `client_ca`"),
            ("ssl_stapling ssl_stapling_file", "`ocsp`, a file"),
            ("ssl_session_tickets", "`ticket_lifetime` in [tls]"),
            ("ssl_handshake_timeout", "`tls_handshake` in [timeouts]"),
            ("proxy_ssl_verify insecureSkipVerify tls_insecure_skip_verify", "`verify` in [upstream.tls]"),
            ("proxy_ssl_trusted_certificate rootCAs", "`ca` in [upstream.tls]"),
            ("proxy_ssl_name sni", "`server_name` in [upstream.tls]"),
            ("proxy_ssl_certificate", "`cert` and `key` in [upstream.tls]"),
            ("proxy_ssl_protocols", "`min_version` in [upstream.tls]"),
            ("auto_https autohttps certresolver", "`hosts` and `contact` in [acme]"),
            ("ssl_redirect force_https", "`https_redirect`"),
            ("stsSeconds", "`hsts` in a [[route]]"),
            ("SSLKEYLOGFILE", "`key_log` in [tls]"),
            ("http3 quic", "not there yet: HTTP/3"),
            ("h2 alpn h2c", "`http2` in a [[listener]]"),
            ("grpc_pass proto proxy_http_version", "h2c:// in its `servers`"),
            ("http2_max_concurrent_streams tune.h2.max-concurrent-streams", "`streams` in [http2]"),
            ("lb_policy ip_hash least_conn", "write `balance` in an [[upstream]]"),
            ("health_check inter", "`health` in an [[upstream]]"),
            ("max_fails outlier_detection", "`failures` and `time` in [upstream.ejection]"),
            ("retries proxy_next_upstream retry_policy redispatch", "`attempts` and `on` in [retry]"),
            ("redir return", "`redirect` or `respond` in a [[route]]"),
            ("error_page errorfile", "`error_pages`"),
            ("rewrites uri_strip_prefix", "`rewrite` or `strip_prefix` in a [[route]]"),
            ("add_header proxy_set_header headers", "`request_headers` or `response_headers`"),
            ("gzip compression encode", "not there yet: bodies pass"),
            ("cache proxy_cache", "not there yet: nothing is cached"),
            ("root try_files static", "it serves no files"),
            ("fastcgi_pass", "HTTP/1.1 or HTTP/2 only"),
            ("auth_basic basic_auth", "not there yet: authentication"),
            ("allow deny", "not there yet: lists of clients"),
            ("limit_req rate_limit", "not there yet: rates of requests"),
            ("access_log error_log", "not there yet: an access log"),
            ("canary split_clients", "`split` in a [[route]]"),
            ("header_matchers conditions", "`when` in a [[route]]"),
            ("regex", "`path_regex`"),
            ("resolver nameserver", "`nameservers`, `min` and `max` in [upstream.resolve]"),
        ] {
            for key in keys.split(' ') {
                let hint = hint(key).unwrap_or_else(|| panic!("nothing is said of {key}"));
                assert!(hint.contains(words), "{key}: {hint}");
            }
        }
    }

    #[test]
    fn keys_about_servers_and_connections_to_them_have_a_place() {
        for (keys, words) in [
            ("hash_policy", "`hash_by`"),
            ("sticky_sessions stick-table", "`sticky` in an [[upstream]]"),
            ("slowstart", "`slow_start`"),
            ("max_conns maxqueue", "`connections` in [[upstream.server]]"),
            ("timeout_queue", "`upstream_queue` in [timeouts]"),
            ("proxy_bind", "`source_addresses`"),
            ("unix uds", "unix:/run/app.sock"),
            ("proxy_ignore_client_abort", "`on_client_close`"),
            ("request_mirror_policies", "`mirror` in a [[route]]"),
            ("circuit_breakers", "[upstream.breaker]"),
        ] {
            for key in keys.split(' ') {
                let hint = hint(key).unwrap_or_else(|| panic!("nothing is said of {key}"));
                assert!(hint.contains(words), "{key}: {hint}");
            }
        }
    }

    /// Every key that a hint names is one of ours, in the section that it names.
    #[test]
    fn hints_name_keys_of_ours() {
        let manual = include_str!("../../../docs/reference.md");
        for (names, hint) in KEYS {
            let quoted = hint.split('`').skip(1).step_by(2);
            for key in quoted.map(|text| text.split([' ', '=']).next().unwrap_or_default()) {
                assert!(
                    key == "User" || manual.contains(&format!("| `{key}` |")),
                    "{names:?}: `{key}` is no key"
                );
            }
            for section in hint.split('[').skip(1).filter_map(|text| text.split(']').next()) {
                let is_table = section.is_empty() || section.starts_with('"');
                assert!(
                    is_table || manual.contains(&format!("[{section}]")),
                    "{names:?}: [{section}] is no section"
                );
            }
        }
    }

    /// Keys that Sluice has itself are not foreign, wherever they stand.
    #[test]
    fn no_foreign_key_is_one_of_ours() {
        let manual = include_str!("../../../docs/reference.md");
        // A key of a table in a list of tables is ours there alone: `server_name` in a route means what it means for nginx.
        let is_nested = |section: &&str| section.split('`').nth(1).is_some_and(|title| title.contains('.'));
        let sections = manual.split("\n## ").filter(|section| !is_nested(section));
        let manual: String = sections.collect();
        for name in KEYS.iter().flat_map(|(names, _)| *names) {
            assert!(!manual.contains(&format!("\n| `{name}` |")), "{name} is a key of ours");
        }
    }
}
