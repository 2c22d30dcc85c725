"""What ``snf up`` starts: child processes that are restarted when they die."""
