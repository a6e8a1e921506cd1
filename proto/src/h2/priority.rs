//! Which responses are wanted first (RFC 9218).

/// The priority of a response, as the Priority field or a PRIORITY_UPDATE frame has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Priority {
    /// 0 first, 7 last.
    pub(super) urgency: u8,
    /// Parts of it are of use before the whole is there.
    pub(super) incremental: bool,
}

impl Default for Priority {
    //= https://www.rfc-editor.org/rfc/rfc9218#section-4.1
    //= https://www.rfc-editor.org/rfc/rfc9218#section-4.2
    fn default() -> Self {
        Self { urgency: 3, incremental: false }
    }
}

impl Priority {
    /// Takes in a value of the field. Members that are unknown or have another type are ignored.
    //= https://www.rfc-editor.org/rfc/rfc9218#section-4
    pub(super) fn read(&mut self, value: &[u8]) {
        for member in crate::ascii::list_members(value) {
            // Parameters mean nothing here.
            match member.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end() {
                [b'u', b'=', urgency @ b'0'..=b'7'] => self.urgency = urgency - b'0',
                b"i" | b"i=?1" => self.incremental = true,
                b"i=?0" => self.incremental = false,
                _ => {}
            }
        }
    }
}

/// The urgency of a value, and whether it is incremental.
pub(super) fn parse(value: &[u8]) -> (u8, bool) {
    let mut priority = Priority::default();
    priority.read(value);
    (priority.urgency, priority.incremental)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_others_ignored() {
        for (value, urgency, incremental) in [
            ("", 3, false),
            ("u=0", 0, false),
            ("u=7, i", 7, true),
            ("i=?1,u=2", 2, true),
            ("i, i=?0", 3, false),
            ("u=5;x=1 ; y, i;z", 5, true),
            ("u=8", 3, false),
            ("u=-1", 3, false),
            ("u=10", 3, false),
            ("u", 3, false),
            ("U=1, I", 3, false),
            ("i=1", 3, false),
            ("x=1, u=4", 4, false),
        ] {
            let mut priority = Priority::default();
            priority.read(value.as_bytes());
            assert_eq!(priority, Priority { urgency, incremental }, "{value}");
        }
    }
}
