"""The worker process: it takes jobs from queues, supervises their processes, and announces itself."""
