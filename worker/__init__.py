"""Background jobs: broker, job store, worker processes, and the processes that run attempts of jobs."""
