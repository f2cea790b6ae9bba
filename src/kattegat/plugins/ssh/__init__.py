"""SSH: the wire protocol and the algorithms of a server, without logging in."""
