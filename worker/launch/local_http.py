"""HTTP requests to the service on this machine."""

import urllib.request
from http.client import HTTPResponse
from typing import cast


def open_local(url: str, timeout: float) -> HTTPResponse:
    """Send a GET request to a service on this machine, and return the open response.

    A proxy in ``HTTP_PROXY`` is not used.

    Args:
        url: URL of the service.
        timeout: Longest wait for the connection, and for each part of the answer, in seconds.

    Raises:
        urllib.error.HTTPError: The answer has an error status.
        http.client.HTTPException: The answer is not HTTP.
        OSError: There is no answer in time.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return cast(HTTPResponse, opener.open(url, timeout=timeout))
