//! Adapters: one file each, and the list of them. Never a rule about what should exist: adapters do as they are told.

pub mod archives;
pub mod endpoint;
pub mod http;
pub mod local;
#[cfg(feature = "ssh")]
pub mod ssh;

use berth_infra::Adapter;

/// Every adapter of this build, by the name it has in the stack file.
pub const ADAPTERS: &[Adapter] = &[
    local::ADAPTER,
    endpoint::ADAPTER,
    #[cfg(feature = "ssh")]
    ssh::ADAPTER,
];

/// The adapter of that name.
pub fn adapter(name: &str) -> Option<Adapter> {
    ADAPTERS.iter().find(|adapter| adapter.name == name).copied()
}
