"""The worker process: it takes jobs from queues, supervises their attempts, and announces itself."""
