"""All Redis: the client, hints over pub/sub, and the idempotency cache. All of its data may be lost at any time."""
