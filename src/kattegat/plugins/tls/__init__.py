"""TLS: the wire protocol, the cipher suites and the certificates of a server."""
