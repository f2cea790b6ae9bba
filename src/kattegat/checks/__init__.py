"""Verdicts from changed facts, and the life of findings."""
