import urllib.request
from http.client import HTTPResponse
from typing import cast


def open_local(url: str, timeout: float) -> HTTPResponse:
    """Send a GET request past ``HTTP_PROXY``; raise ``HTTPError``, ``HTTPException`` or ``OSError``."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return cast(HTTPResponse, opener.open(url, timeout=timeout))
