"""Background jobs: message broker, job store, worker processes, and the processes that run attempts of jobs."""
