"""What people and programs talk to: the HTTP service and the command line."""
