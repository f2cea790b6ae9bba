"""The `kat` command: a module per group of verbs."""
