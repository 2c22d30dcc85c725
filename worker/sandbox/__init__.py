"""Processes with limits of memory and time, for work on files of unknown origin."""
