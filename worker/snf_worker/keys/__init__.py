"""API keys: the file that stores them, their roles, and the creation of the first key."""
