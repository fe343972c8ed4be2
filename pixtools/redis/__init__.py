"""All access to Redis: the client, hints over pub/sub, and the idempotency cache. Redis may lose all data any time."""
