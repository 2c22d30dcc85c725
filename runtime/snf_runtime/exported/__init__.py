"""Exported models: the folder that `snf export` writes, its verification, and scores and verdicts by it."""
