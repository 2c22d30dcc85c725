"""The HTTP service, the web console and the command line."""
