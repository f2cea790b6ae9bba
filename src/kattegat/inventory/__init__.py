"""Assets, links and facts over time: recording, presence, clearance and as-of reading."""
