"""All SQL: the tables, the state transitions, and the stores of jobs, dead letters and retention."""
