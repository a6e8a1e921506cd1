//! `mirror` of a `[[route]]`: a second group that gets copies of requests.

use super::choices::ProxyProtocolOut;
use super::problem::{Fault, Report, closest};
use super::table::{RouteKeys, RouteMirrorKeys};
use super::upstreams::Upstreams;
use super::values::Field;
use crate::policy::MirrorRule;

/// What `mirror` of a route comes to, whose own group is `upstream`.
pub(super) fn check_mirror(
    keys: &RouteKeys,
    upstreams: &Upstreams,
    upstream: Option<usize>,
    report: &mut Report,
) -> Option<MirrorRule> {
    let written = keys.mirror.given()?;
    let of_mirror = RouteMirrorKeys::settle(&written.value);
    let key = "route.mirror.upstream";
    let given = match &of_mirror.upstream {
        Field::Given(given) => given,
        Field::Faulty => return None,
        Field::Absent => {
            let fault = Fault::new("copies need an upstream to go to").hint("add upstream = \"shadow\"");
            report.error(&written.at, key, fault);
            return None;
        }
    };
    let Some(&number) = upstreams.numbers.get(&given.value) else {
        if !upstreams.some_unnamed {
            let fault = Fault::new(format!("there is no upstream `{}`", given.value));
            let near = closest(&given.value, upstreams.numbers.keys().map(String::as_str));
            let hint = near
                .map_or_else(|| "add an [[upstream]]".to_owned(), |near| format!("did you mean `{near}`"));
            report.error(&given.at, key, fault.hint(hint));
        }
        return None;
    };
    if upstreams.groups[number].proxy_protocol != ProxyProtocolOut::Off {
        let fault = Fault::new("a copy belongs to no connection that a PROXY protocol header could name");
        report.error(&given.at, key, fault.hint("leave out proxy_protocol of that upstream"));
    }
    if upstream == Some(number) {
        let fault = Fault::new("the servers of the route get their own requests twice");
        report.warn(&given.at, key, fault.hint("name another upstream"));
    }
    let percent = u8::try_from(of_mirror.percent).unwrap_or(100);
    Some(MirrorRule { upstream: number, percent })
}
