"""The multi-scale flow: its architecture as data, its modules, and how they are built."""
