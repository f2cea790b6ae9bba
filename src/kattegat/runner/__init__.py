"""The scanning process: its door to the server, the guarded network, limits and external tools. No database."""
