//! The store's benchmark: what `kingdb` costs a program that embeds it, beside LevelDB, RocksDB and fjall. Programs:
//! `bench-store` (db_bench's workloads), `bench-cache` (hit ratios of the RAM cache beside LRU and memcached).

pub mod caches;
pub mod leveldb;
pub mod plot;
pub mod report;
pub mod rocksdb;
pub mod store;
pub mod trace;
pub mod worker;
pub mod workload;
