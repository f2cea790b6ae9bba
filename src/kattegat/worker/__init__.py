"""The process that claims ingest and sweep tasks: parses evidence, records facts, runs checks."""
