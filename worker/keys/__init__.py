"""Keys of callers: the file that holds them, their roles, and the first key."""
