"""Access control: API keys, roles, rate limits and origins."""
