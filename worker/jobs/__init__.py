"""Jobs: their records, states, events and shards in the job store."""
