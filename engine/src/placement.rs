//! Which shard runs on which CPU.
