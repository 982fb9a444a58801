//! Small worlds for tests: a real Postgres, free ports, chances that repeat, and waiting without sleeping.
//! Never part of a program: a dev-dependency only.

mod other_server;
mod outside;
mod pg;
mod redis;
mod redis_many;
mod wait;

pub use other_server::OtherServer;
pub use outside::{TestAuthority, TestNames, certificate};
pub use pg::{TestDatabase, TestPg, postgres_program};
pub use redis::{TestRedis, WallClock};
pub use redis_many::{TestRedisCluster, TestSentinels};
pub use wait::{free_port, seeded, wait_until, wait_within};
