"""Any PostgreSQL schema as data: read it, compare it, plan a way to another one that loses nothing, and hold the fence.

Knows no table of ours: Kattegat's own database and those of an OpenKAT install are the same to it.
"""
