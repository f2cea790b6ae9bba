"""What is due, in which order, within which limits; the task queue."""
