"""One client that takes what it can get beside a polite one."""
