"""Processes with limited memory and time, which open files from unknown sources."""
