"""Training runs: their parameters, curves and results, of jobs and of the command line."""
