"""Webhooks as plain data: events, bodies, signatures, secrets, endpoints and deliveries."""
