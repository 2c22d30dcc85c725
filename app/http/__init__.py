"""HTTP plumbing of all domains: errors, bodies, connections, uploads, deadlines and logs."""
