"""A language model behind an OpenAI-compatible endpoint: ``POST URL/chat/completions``."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from climp_bench.data.answers import Answer
from climp_bench.errors import DataError

TIMEOUT_S = 120.0
LONGEST_WAIT_S = 60.0
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}


class _Later(Exception):
    """The service is busy or broken; it may answer later."""

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


@dataclass(frozen=True)
class Endpoint:
    """A service that speaks OpenAI's chat completions.

    Attributes:
        url: up to and with ``/v1``.
        model: name of the model there.
        key: sent as a bearer token; empty sends none. Never written anywhere.
        max_tokens, temperature, seed: sent along.
        batch: requests at a time.
        attempts: how often one is sent before the run ends.
        wait: seconds before the second attempt; each further wait is twice as long, up to a minute.
        sleep: waits so many seconds.
    """

    url: str
    model: str
    key: str = ""
    max_tokens: int = 200
    temperature: float = 0.0
    seed: int = 0
    batch: int = 4
    attempts: int = 8
    wait: float = 1.0
    sleep: Callable[[float], None] = time.sleep

    @property
    def facts(self) -> dict[str, Any]:
        """What shapes its answers."""
        return {
            "name": self.model,
            "endpoint": self.url,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def answer(self, prompts: Sequence[tuple[str, str]]) -> list[Answer]:
        """One answer a prompt.

        Raises:
            DataError: the service refuses the request as such (key, model, address), or stays unreachable.
        """
        with ThreadPoolExecutor(max(1, len(prompts))) as pool:
            return list(pool.map(self._one, prompts))

    def _one(self, prompt: tuple[str, str]) -> Answer:
        wait = self.wait
        for attempt in range(1, self.attempts + 1):
            try:
                return replace(self._ask(*prompt), attempts=attempt)
            except _Later as busy:
                if attempt == self.attempts:
                    what = f"no answer after {attempt} attempts ({busy})"
                    remedy = "What was answered is kept: run the same command again later."
                    raise DataError(what, where=self.url, remedy=remedy) from busy
                self.sleep(min(busy.after if busy.after is not None else wait, LONGEST_WAIT_S))
                wait *= 2
        raise AssertionError("every attempt returns or raises")

    def _ask(self, system: str, user: str) -> Answer:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        body = {
            "model": self.model, "messages": messages, "max_tokens": self.max_tokens,
            "temperature": self.temperature, "seed": self.seed,
        }  # fmt: skip
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                return _read(reply.read())
        except urllib.error.HTTPError as error:
            return self._refusal(error)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise _Later(str(getattr(error, "reason", error)) or type(error).__name__) from error

    def _refusal(self, error: urllib.error.HTTPError) -> Answer:
        """An answer for what the service will not answer; raises for all that is not about one caption."""
        body = error.read(2000).decode("utf-8", "replace")
        said = f"HTTP {error.code} {error.reason}: {' '.join(body.split())[:200]}"
        if error.code in _AGAIN:
            raise _Later(said, _seconds(error.headers.get("Retry-After")))
        if error.code in (400, 422) and "content" in body and ("filter" in body or "policy" in body):
            return Answer("", fault=said, refused=True)
        remedy = "Check --endpoint, --model and the key."
        raise DataError(f"the request is refused ({said})", where=self.url, remedy=remedy) from error


def open_endpoint(url: str, model: str, key_variable: str, **how: Any) -> Endpoint:
    """The endpoint at ``url``, with the key in the environment variable ``key_variable``, if it is set.

    Raises:
        DataError: the address is none.
    """
    if not url.startswith(("http://", "https://")):
        remedy = "Give it as https://HOST/v1."
        raise DataError("not an address of the web", where=f"--endpoint {url}", remedy=remedy)
    return Endpoint(url, model, os.environ.get(key_variable, ""), **how)


def _seconds(header: str | None) -> float | None:
    return float(header) if header and header.strip().isdecimal() else None


def _read(body: bytes) -> Answer:
    try:
        choice = json.loads(body)["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        if text is not None and not isinstance(text, str):
            raise TypeError("the content is no text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = " ".join(body[:200].decode("utf-8", "replace").split())
        return Answer("", fault=f"not a chat completion ({type(error).__name__}: {error}): {shown!r}")
    if reason == "content_filter":
        return Answer(text or "", fault="the service filtered it", refused=True)
    return Answer(text or "", cut=reason == "length")
