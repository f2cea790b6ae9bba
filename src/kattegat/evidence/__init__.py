"""The vault of raw bytes: packs, encryption, sealed roots."""
