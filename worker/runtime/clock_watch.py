"""Detection of jumps of the Redis server's clock, which measures leases and waiting times of jobs."""


class ClockWatch:
    """Detector of jumps of the Redis server's clock.

    It compares the time that passed on that clock with the monotonic clock of this process.

    The server's clock is that of its machine: a person, a time server, or the end of a suspension may set it.

    Args:
        tolerance_s: Difference in seconds between the two that is no jump.
    """

    def __init__(self, tolerance_s: float) -> None:
        self._tolerance_s = tolerance_s
        self._offset_s: float | None = None

    def jump(self, server_s: float, monotonic_s: float) -> float:
        """Return by how many seconds the Redis server's clock jumped against this process's monotonic clock.

        The jump is that since the last call.

        The value is negative if the clock was set back. It is 0 at the first call, and if the clock did not jump.

        Args:
            server_s: Time of the server in seconds since 1970.
            monotonic_s: Time of this process's monotonic clock at the same moment, in seconds.
        """
        offset_s = server_s - monotonic_s
        before_s, self._offset_s = self._offset_s, offset_s
        if before_s is None or abs(offset_s - before_s) <= self._tolerance_s:
            return 0.0
        return offset_s - before_s
