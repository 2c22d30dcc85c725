"""API keys: the file that stores them, their roles, and the first key."""
