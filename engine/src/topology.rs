//! What the machine looks like.
