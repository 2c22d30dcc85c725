"""Jobs: submission with checks, events, and results."""
