"""The service on one machine: starts and stops Postgres, Redis, S3 and Ray, and deploys the application."""
