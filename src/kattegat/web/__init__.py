"""The web process: health, the door for runners, pages."""
