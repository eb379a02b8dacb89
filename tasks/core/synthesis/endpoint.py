"""Sends prompts to an OpenAI-compatible chat API: cached, within a budget, retried, and safe to kill.

Every answer is stored before the next step uses it, in `generated/answers` of the home, named by the digest of model,
prompt, and limits. Every request is written to `generated/requests.log` before it is sent, so the budget also holds
after a crash.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tasks.core.base.atomic_files import digest_of, write_json
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import exclusive
from tasks.core.base.sections.synthetic import GenerateSettings

log = logging.getLogger("nightshift.synthesis")

FOLDER = "generated"  # in the home
BACKOFF = 1.0  # seconds before the second try; doubled for each further try
LONGEST_WAIT = 60.0  # seconds; also limits Retry-After
FAILURES = 5  # prompts in a row without an answer, after which no more are sent
CHARACTERS = 4  # per token, for estimates
_REFUSED = {401, 403, 404}  # a wrong key, address, or model: every other request would fail, too
_RETRIED = {408, 409, 425, 429}  # and every 5xx


class NoAnswer(Exception):
    """A prompt that got no answer."""


class Endpoint:
    """The chat API of `[generate]`, with the answers and the request count of a home."""

    def __init__(self, home: Path, settings: GenerateSettings) -> None:
        self._settings, self._folder = settings, home / FOLDER
        self._log_file = self._folder / "requests.log"
        self._lock = threading.Lock()
        self._failures = 0  # in a row
        self._stopped = threading.Event()

    def stored(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return the stored answers: prompt -> answer."""
        answers = {}
        for prompt in prompts:
            file = self._file(prompt)
            if file.exists():
                answers[prompt] = str(json.loads(file.read_text(encoding="utf-8"))["answer"])
        return answers

    @property
    def remaining(self) -> int:
        """The number of requests that the budget still allows."""
        sent = self._log_file.read_bytes().count(b"\n") if self._log_file.exists() else 0
        return max(0, self._settings.budget - sent)

    def estimate(self, prompts: Sequence[str]) -> str:
        """Return a sentence with the requests and tokens that these prompts will cost."""
        sent = min(len(prompts), self.remaining)
        tokens = sum(map(len, prompts[:sent])) // CHARACTERS
        return (
            f"{len(prompts):,} prompts without a stored answer: about {sent:,} requests to {self._settings.model} "
            f"({self.remaining:,} left of [generate] budget = {self._settings.budget:,}), {tokens:,} input tokens, and "
            f"at most {sent * self._settings.max_tokens:,} output tokens"
        )

    def answer(self, prompts: Sequence[str]) -> dict[str, str]:
        """Return stored and new answers: prompt -> answer. A prompt without an answer is left out, and logged.

        Raises:
            NightshiftError: the API refuses the key, the model, or the address.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self._folder / "requests.lock"):
            missing = list(dict.fromkeys(prompts))
            missing = [prompt for prompt in missing if not self._file(prompt).exists()]
            if missing:
                log.info("%s", self.estimate(missing))
                self._send_all(missing)
        answers = self.stored(prompts)
        if unanswered := len(set(prompts)) - len(answers):
            log.warning(
                "%s prompts have no answer; the next night sends them again within [generate] budget", f"{unanswered:,}"
            )
        return answers

    def _send_all(self, prompts: Sequence[str]) -> None:
        key = self._settings.key.get_secret_value()
        headers = {"authorization": f"Bearer {key}"} if key else {}
        workers = self._settings.concurrency
        with (
            httpx.Client(headers=headers, timeout=self._settings.timeout) as client,
            ThreadPoolExecutor(workers, thread_name_prefix="generate") as pool,
        ):
            try:
                for _ in pool.map(lambda prompt: self._answer(client, prompt), prompts):
                    pass
            except BaseException:
                self._stopped.set()
                raise

    def _answer(self, client: httpx.Client, prompt: str) -> None:
        """Get and store the answer of a prompt; do nothing once the API failed `FAILURES` times in a row."""
        if self._stopped.is_set():
            return
        try:
            answer = self._try_repeatedly(client, prompt)
        except NoAnswer as error:
            if self._stopped.is_set():
                return
            log.warning("no answer from %s: %s", self._settings.url, error)
            with self._lock:
                self._failures += 1
                if self._failures == FAILURES:
                    log.warning("%d prompts in a row got no answer: sending no more tonight", FAILURES)
                    self._stopped.set()
            return
        with self._lock:
            self._failures = 0
        write_json(self._file(prompt), {"model": self._settings.model, "prompt": prompt, "answer": answer})

    def _try_repeatedly(self, client: httpx.Client, prompt: str) -> str:
        reason = ""
        for attempt in range(self._settings.tries):
            if not self._take():
                raise NoAnswer("sending stopped")
            wait = min(BACKOFF * 2**attempt, LONGEST_WAIT)
            try:
                response = client.post(f"{self._settings.url.rstrip('/')}/chat/completions", json=self._body(prompt))
            except httpx.HTTPError as error:  # not reachable, too slow, or cut off
                reason = f"{type(error).__name__} {error}"
            else:
                answer, reason = self._read(response)
                if answer is not None:
                    return answer
                wait = _retry_after(response, wait)
            if attempt + 1 < self._settings.tries and self._stopped.wait(wait):
                break
        raise NoAnswer(f"{reason} ({self._settings.tries} tries)")

    def _body(self, prompt: str) -> Mapping[str, object]:
        return {
            "model": self._settings.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._settings.max_tokens,
            "temperature": 0,
        }

    def _read(self, response: httpx.Response) -> tuple[str | None, str]:
        """Return the answer of a response, or None and the reason for another try.

        Raises:
            NightshiftError: the API refuses every request.
            NoAnswer: the API refuses this prompt, so that another try is useless.
        """
        status, start = response.status_code, " ".join(response.text.split())[:200]
        if status in _REFUSED:
            raise NightshiftError(
                f"{self._settings.url} answers {status} ({start}). Check [generate] url and model, and the key in "
                "NIGHTSHIFT_GENERATE__KEY."
            )
        if status in _RETRIED or status >= 500:
            return None, f"status {status}: {start}"
        if status != httpx.codes.OK:
            raise NoAnswer(f"status {status}: {start}")
        try:
            choice = response.json()["choices"][0]
            content, cut = choice["message"]["content"], choice.get("finish_reason") == "length"
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None, f"not a chat completion: {start}"
        if not isinstance(content, str):
            return None, "an answer without text"
        return (content.rpartition("\n")[0] if cut else content), ""

    def _take(self) -> bool:
        """Record a request before it is sent; return false if the budget is spent."""
        with self._lock:
            if self.remaining == 0 and not self._stopped.is_set():
                log.warning("[generate] budget = %d is spent: sending no more", self._settings.budget)
                self._stopped.set()
            if self._stopped.is_set():
                return False
            with self._log_file.open("ab") as file:
                file.write(f"{time.time():.3f}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            return True

    def _file(self, prompt: str) -> Path:
        settings = self._settings
        digest = digest_of({"model": settings.model, "prompt": prompt, "max_tokens": settings.max_tokens})
        return self._folder / "answers" / digest[:2] / f"{digest}.json"


def _retry_after(response: httpx.Response, wait: float) -> float:
    """Return the seconds of the header Retry-After, or `wait` without a number in it."""
    given = response.headers.get("retry-after", "")
    return min(float(given), LONGEST_WAIT) if given.isascii() and given.isdigit() else wait
