"""HTTP requests to hosts that a client of the service chose. No request reaches an internal address."""
