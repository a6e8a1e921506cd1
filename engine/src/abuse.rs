//! The abuse score of a client's connection, of either protocol: requests that the protocol allows, that cost us work, and that are abuse
//! when repeated. Frames of HTTP/2 have a budget of their own (`h2::abuse`).
//!
//! A breach of the protocol ends its connection at once and needs no score. Each kind of abuse has its points and its counter.
//! A well-formed request takes a point off again, so that a long connection with a rare slip stays open.

use std::cell::Cell;

use crate::counters::{Counter, Counters};

/// A kind of abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Abuse {
    /// Empty lines before a request. RFC 9112 section 2.2 wants them skipped, for the sake of old clients.
    EmptyLines,
    /// A request that is refused (no route, wrong method) and leaves the connection open: the client may be guessing.
    Refusal,
    /// A head in very many pieces, each of which wakes us.
    DrippedHead,
    /// Thousands of chunks of a few bytes: more framing than data.
    TinyChunks,
}

impl Abuse {
    fn points(self) -> u8 {
        match self {
            Abuse::EmptyLines | Abuse::DrippedHead | Abuse::TinyChunks => 2,
            Abuse::Refusal => 3,
        }
    }

    fn counter(self, counters: &Counters) -> &Counter {
        match self {
            Abuse::EmptyLines => &counters.abuse_empty_lines,
            Abuse::Refusal => &counters.abuse_refusals,
            Abuse::DrippedHead => &counters.abuse_dripped_heads,
            Abuse::TinyChunks => &counters.abuse_tiny_chunks,
        }
    }
}

/// The score of one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Score(Cell<u8>);

/// The consequence of an abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    GoOn,
    /// The connection has to end.
    End,
}

impl Score {
    /// A score of so many points.
    pub(crate) fn new(points: u8) -> Score {
        Score(Cell::new(points))
    }

    pub(crate) fn points(&self) -> u8 {
        self.0.get()
    }

    /// Counts an abuse; `points_max` of 0 allows everything.
    pub(crate) fn add(&self, abuse: Abuse, points_max: u8, counters: &Counters) -> Verdict {
        abuse.counter(counters).increment();
        let before = self.0.get();
        let after = before.saturating_add(abuse.points());
        self.0.set(after);
        if points_max == 0 || after < points_max {
            return Verdict::GoOn;
        }
        if before < points_max {
            counters.abuse_closed.increment();
        }
        Verdict::End
    }

    /// A request that was as it should be.
    pub(crate) fn forgive(&self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_ends_at_its_limit_and_is_counted_once() {
        let (score, counters) = (Score::default(), Counters::default());
        assert_eq!(score.add(Abuse::Refusal, 6, &counters), Verdict::GoOn);
        assert_eq!(score.add(Abuse::Refusal, 6, &counters), Verdict::End);
        assert_eq!(score.add(Abuse::EmptyLines, 6, &counters), Verdict::End);
        let counted = (&counters.abuse_refusals, &counters.abuse_empty_lines);
        assert_eq!((counted.0.value(), counted.1.value(), counters.abuse_closed.value()), (2, 1, 1));
    }

    #[test]
    fn good_requests_are_credited_and_no_limit_is_none() {
        let (score, counters) = (Score::default(), Counters::default());
        for _ in 0..1_000 {
            assert_eq!(score.add(Abuse::EmptyLines, 6, &counters), Verdict::GoOn);
            score.forgive();
            score.forgive();
        }
        assert_eq!(score.points(), 0);
        for _ in 0..1_000 {
            assert_eq!(score.add(Abuse::TinyChunks, 0, &counters), Verdict::GoOn);
        }
    }
}
