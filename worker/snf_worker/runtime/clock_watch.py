class ClockWatch:
    """Detector of jumps of the Redis server's clock over ``tolerance_s`` against this process's monotonic clock."""

    def __init__(self, tolerance_s: float) -> None:
        self._tolerance_s = tolerance_s
        self._offset_s: float | None = None

    def jump(self, server_s: float, monotonic_s: float) -> float:
        """Return the seconds by which the server's clock jumped since the last call, negative if set back, or 0."""
        offset_s = server_s - monotonic_s
        before_s, self._offset_s = self._offset_s, offset_s
        if before_s is None or abs(offset_s - before_s) <= self._tolerance_s:
            return 0.0
        return offset_s - before_s
