"""What is OpenKAT's own in taking an OpenKAT install to another release: facts, recognition, doors and data steps."""
