"""Processes with limits of memory and time, for work on files from unknown sources."""
