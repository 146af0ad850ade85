"""The brokers that carry messages between processes: Redis, Redis Cluster, NATS."""
