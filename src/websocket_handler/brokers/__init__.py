"""The brokers that carry messages between processes: Redis, Redis Cluster, Redis Sentinel, NATS,
and the Unix sockets of one machine."""
