"""Recorded settings are complete, contain no secrets, and are compared by name."""

from __future__ import annotations

import tomllib

from tasks.core.base.resolved_settings import differences, resolve
from tasks.core.base.settings import Settings
from tasks.core.base.settings_listing import format_settings


def test_every_setting_is_recorded_except_secrets() -> None:
    secrets = {"milvus": {"token": "root:Milvus"}, "release": {"password": "sesame"}}
    data = {"format": "beir", "path": "s3://someone:sesame@feed/night?region=eu&secret_key=sesame"}
    recorded = resolve(Settings.model_validate({**secrets, "data": data}))
    assert recorded["data.path"] == "s3://someone:…@feed/night?region=eu&secret_key=…"
    assert "sesame" not in str(recorded)
    assert "Milvus" not in str(recorded)
    assert "mining.shares.bm25" in recorded
    printed = tomllib.loads(format_settings(Settings()))
    tables = {name: table for name, table in printed.items() if isinstance(table, dict)}
    names = {f"{name}.{key}" for name, table in tables.items() for key in table if not isinstance(table[key], dict)}
    assert names - {"milvus.token", "release.password"} <= recorded.keys()


def test_only_settings_that_differ_are_named() -> None:
    before = resolve(Settings())
    after = resolve(Settings.model_validate({"training": {"batch_size": 7}}))
    assert differences(before, before) == ()
    (change,) = differences(before, after)
    assert (change.name, change.before, change.after) == ("training.batch_size", "32", "7")
    (gone,) = differences({**before, "old.setting": 1}, before)
    assert (gone.name, gone.before, gone.after) == ("old.setting", "1", "")
