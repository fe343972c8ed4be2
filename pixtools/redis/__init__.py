"""All access to Redis: the client, hints, and the idempotency cache. Redis may lose all data at any time."""
