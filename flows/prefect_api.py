"""Client for a Prefect server's REST API that does not import Prefect, for commands and the watchdog."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from typing import Any, NamedTuple

from tasks.core.base.errors import Unreachable

TIMEOUT = 10  # seconds per request
UNAUTHORIZED = 401


def login_refused(url: str) -> str:
    """Return the message for a server that refuses the login of this process, or that got none."""
    return (
        f"the Prefect server at {url} refuses the login (status {UNAUTHORIZED}). Set PREFECT_API_AUTH_STRING to its "
        "`user:password` (of a server that `nightshift up` started: the content of prefect/login in its home), or "
        "PREFECT_API_KEY to an API key, in the environment of this command."
    )


class PrefectApi(NamedTuple):
    """URL of the API, such as http://127.0.0.1:4200/api, and the value of the Authorization header."""

    url: str
    authorization: str = ""

    @classmethod
    def with_login(cls, url: str, login: str) -> PrefectApi:
        """Return a client for `url` with the login `user:password`, or without a login if `login` is empty."""
        return cls(url, "Basic " + base64.b64encode(login.encode()).decode() if login else "")

    @classmethod
    def configured(cls) -> PrefectApi | None:
        """Return a client for PREFECT_API_URL, with its login or API key. None when the variable is not set."""
        url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
        if not url:
            return None
        if key := os.environ.get("PREFECT_API_KEY"):
            return cls(url, f"Bearer {key}")
        return cls.with_login(url, os.environ.get("PREFECT_API_AUTH_STRING", ""))

    def get(self, path: str) -> Any:
        """Send a GET request and return the JSON response.

        Raises Unreachable when the server does not answer or returns an error, such as a refused login.
        """
        return self._request(path, None)

    def post(self, path: str, body: object) -> Any:
        """Send a POST request with a JSON body and return the JSON response.

        Raises Unreachable when the server does not answer or returns an error.
        """
        return self._request(path, json.dumps(body).encode())

    def answers(self) -> bool:
        """Return whether the server is healthy."""
        try:
            self.get("health")
        except Unreachable:
            return False
        return True

    def _request(self, path: str, data: bytes | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.authorization:
            headers["Authorization"] = self.authorization
        request = urllib.request.Request(f"{self.url}/{path}", data, headers)  # noqa: S310 (the configured server)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
                return json.load(response)
        except (OSError, ValueError) as error:  # URLError, HTTPError, and timeouts are OSErrors
            if isinstance(error, urllib.error.HTTPError) and error.code == UNAUTHORIZED:
                raise Unreachable(login_refused(self.url)) from error
            raise Unreachable(f"Prefect at {self.url} does not answer {path}: {error}") from error
