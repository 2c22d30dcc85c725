"""The worker process: it takes jobs, supervises their attempts and announces itself."""
