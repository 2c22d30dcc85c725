"""What training minimises: exact likelihood, or the self normalizing mixture under its reconstruction constraint."""
