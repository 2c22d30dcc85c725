"""The job store: records, states, shards and events of jobs, and the registry of workers."""
