"""Who may call, and what: keys, roles, rate limits and origins."""
