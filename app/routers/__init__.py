"""One thin router a group of calls."""
