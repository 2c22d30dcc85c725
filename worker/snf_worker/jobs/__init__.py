"""The job store in Redis: records, statuses, events and shards of jobs, and the registry of running workers."""
