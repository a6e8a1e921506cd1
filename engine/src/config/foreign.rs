//! Keys of other proxies: whether Sluice has what they do, and where.

pub(super) fn hint(_key: &str) -> Option<&'static str> {
    None
}
