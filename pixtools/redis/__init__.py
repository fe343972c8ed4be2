"""All access to Redis: the client, hints, and reservations of idempotency keys. Redis may lose all data at any time."""
