"""Jobs as plain data, without SQL: records, views, submissions and outcomes."""
