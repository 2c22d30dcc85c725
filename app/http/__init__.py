"""What all calls share: errors, bodies, connections, uploads, deadlines and logs."""
