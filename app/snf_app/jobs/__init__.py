"""Background jobs over HTTP: submission with checks, progress events, and results."""
