"""The owner on whose behalf a request acts."""

PUBLIC_OWNER = "public"  # every request acts for this one owner: the service has no API keys
