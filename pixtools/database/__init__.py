"""All SQL: the tables, the state transitions, the stores for jobs, dead letters and retention, and the reconciler."""
