"""Attempts of jobs: the code of the process that runs an attempt, one module for each type of job."""
