"""Attempts: the code of the process that runs one execution of a job, with a module for each type of job."""
