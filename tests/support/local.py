"""The address under which tests in this process call a service: one that it answers without keys."""

LOCAL = "http://localhost"
