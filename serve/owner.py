"""The owner of the jobs that a request creates, reads or changes."""

PUBLIC_OWNER = "public"  # the owner of all jobs, because the service has no API keys
