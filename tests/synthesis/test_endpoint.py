"""Answers of a chat API over real HTTP: cached, retried, and within the budget."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import FAULTS, Chat, chat_server
from small_snapshot import snapshot_of

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.synthetic import GenerateSettings
from tasks.core.synthesis import endpoint as endpoints
from tasks.core.synthesis.endpoint import Endpoint
from tasks.core.synthesis.generate import generate_queries, read_queries

PASSAGES = {f"p{n}": f"The story of river number {n} is known in village {n}" for n in range(4)}


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    monkeypatch.setattr(endpoints, "BACKOFF", 0.001)
    with chat_server() as server:
        yield server


def settings_of(chat: Chat, **more: Any) -> GenerateSettings:
    fields = {"url": chat.url, "model": "writer", "budget": 100, "concurrency": 2, "timeout": 10} | more
    return GenerateSettings.model_validate(fields)


def test_a_second_call_sends_nothing(chat: Chat, tmp_path: Path) -> None:
    snapshot, settings = snapshot_of(tmp_path, PASSAGES), settings_of(chat, key="secret")
    first = generate_queries(tmp_path, snapshot, settings, 10)
    assert len(first) == len(chat.prompts) == 4
    assert all(len(texts) == 2 and texts[0].startswith("where was of river number") for texts in first.values())
    assert set(chat.keys) == {"Bearer secret"}
    assert generate_queries(tmp_path, snapshot, settings, 10) == first
    assert len(chat.prompts) == 4
    assert b"secret" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    generate_queries(tmp_path, snapshot, settings_of(chat, model="another"), 10)
    assert len(chat.prompts) == 8


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_request_is_sent_again(chat: Chat, tmp_path: Path, fault: str) -> None:
    chat.faults = [fault]
    settings = settings_of(chat, timeout=0.2 if fault == "slow" else 10)
    assert set(Endpoint(tmp_path, settings).answer(["Passage: a b c d e"])) == {"Passage: a b c d e"}
    assert len(chat.prompts) == 2


def test_an_answer_at_the_token_limit_loses_its_last_line(chat: Chat, tmp_path: Path) -> None:
    chat.faults = ["long"]
    (answer,) = Endpoint(tmp_path, settings_of(chat)).answer(["Passage: a b c d e"]).values()
    assert read_queries(answer) == ["where was c d e e seen"]


def test_the_budget_counts_retries_and_holds_after_a_restart(chat: Chat, tmp_path: Path) -> None:
    chat.faults = ["500", "500"]
    prompts = [f"Passage: number {n} c d e" for n in range(6)]
    settings = settings_of(chat, budget=5, concurrency=1)
    assert len(Endpoint(tmp_path, settings).answer(prompts)) == 3
    assert len(Endpoint(tmp_path, settings).answer(prompts)) == 3
    assert len(chat.prompts) == 5
    assert len(Endpoint(tmp_path, settings_of(chat, budget=8)).answer(prompts)) == 6
    assert len(chat.prompts) == 8


def test_a_broken_api_is_left_alone_after_some_failures(chat: Chat, tmp_path: Path) -> None:
    chat.faults = ["503"] * 1000
    settings = settings_of(chat, tries=2, concurrency=1)
    assert Endpoint(tmp_path, settings).answer([f"Passage: {n}" for n in range(30)]) == {}
    assert len(chat.prompts) == 2 * endpoints.FAILURES


def test_a_refused_prompt_is_skipped_and_a_refused_key_stops(chat: Chat, tmp_path: Path) -> None:
    chat.faults = ["400"]
    prompts = ["Passage: a b c d e", "Passage: f g h i j"]
    assert list(Endpoint(tmp_path, settings_of(chat, concurrency=1)).answer(prompts)) == prompts[1:]
    assert len(chat.prompts) == 2
    chat.faults = ["401"]
    with pytest.raises(NightshiftError, match="NIGHTSHIFT_GENERATE__KEY"):
        Endpoint(tmp_path, settings_of(chat)).answer(prompts)


def test_the_cost_is_logged_before_the_first_request(
    chat: Chat, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = snapshot_of(tmp_path, PASSAGES)
    with caplog.at_level(logging.INFO, "nightshift.synthesis"):
        assert generate_queries(tmp_path, snapshot, settings_of(chat, budget=3), 10, send=False) == {}
    assert "4 prompts without a stored answer: about 3 requests to writer (3 left of" in caplog.text
    assert not chat.prompts


def test_a_prompt_file_replaces_the_prompt(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Costs $5. Passage: $text ($count)")
    settings = settings_of(chat, prompt=tmp_path / "prompt.txt", per_passage=1)
    generated = generate_queries(tmp_path / "home", snapshot_of(tmp_path / "home", PASSAGES), settings, 10)
    assert sorted(chat.prompts)[0] == f"Costs $5. Passage: {PASSAGES['p0']} (1)"
    assert all(len(texts) == 1 for texts in generated.values())


CHILD = """
import sys
from pathlib import Path
from tasks.core.base.sections.synthetic import GenerateSettings
from tasks.core.synthesis.endpoint import Endpoint
settings = GenerateSettings(url=sys.argv[1], model="writer", budget=5, concurrency=1)
Endpoint(Path(sys.argv[2]), settings).answer([f"Passage: {n} b c d e" for n in range(4)])
"""


def test_a_killed_process_keeps_its_answers_and_its_request_count(chat: Chat, tmp_path: Path) -> None:
    chat.faults = ["", "", "slow"]
    child = subprocess.Popen([sys.executable, "-c", CHILD, chat.url, str(tmp_path)])
    try:
        assert all(chat.received.acquire(timeout=60) for _ in range(3))
    finally:
        child.kill()
        child.wait()
    prompts = [f"Passage: {n} b c d e" for n in range(4)]
    endpoint = Endpoint(tmp_path, settings_of(chat, budget=5, concurrency=1))
    assert list(endpoint.stored(prompts)) == prompts[:2]
    assert endpoint.remaining == 2
    assert len(endpoint.answer(prompts)) == 4
    assert endpoint.remaining == 0
    assert len(chat.prompts) == 5
