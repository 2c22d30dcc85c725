"""Prometheus metrics of the service, the middleware that fills them, and the lag of the event loop."""
