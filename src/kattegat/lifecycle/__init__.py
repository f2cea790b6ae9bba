"""Changing the release of an install, up and down, without losing a row: runs, backups, keys, history."""
