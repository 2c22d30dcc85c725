"""HTTP infrastructure of all endpoints: errors, bodies, connections, uploads, deadlines and logs."""
