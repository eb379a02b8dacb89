"""The release that a night compares with when files of the serving encoder are damaged."""

from __future__ import annotations

import logging

import pytest
from file_damage import HARMS
from release_world import release_night, small

from tasks.core.base.errors import Damaged
from tasks.core.base.receipts import Encoder
from tasks.core.release.comparable import find_comparable
from tasks.core.release.rollback import rollback


def harm_encoder(settings, release, harm):
    HARMS[harm](settings.home / Encoder.shelf / release.encoder / "weights.json")


def test_the_serving_release_is_comparable_and_no_release_gives_none(tmp_path):
    settings = small(tmp_path / "home")
    assert find_comparable(settings, None) is None
    release = release_night(settings)
    assert find_comparable(settings, release) == release


def test_a_release_without_encoder_and_predecessor_makes_the_night_a_first_night(tmp_path, caplog):
    settings = small(tmp_path / "home")
    release = release_night(settings)
    harm_encoder(settings, release, "flipped")
    with caplog.at_level(logging.WARNING):
        assert find_comparable(settings, release) is None
    assert "trains from the base model" in caplog.text
    assert "restore the folder from a backup" in caplog.text


def test_a_release_without_encoder_names_the_rollback_and_the_rollback_works(tmp_path):
    settings = small(tmp_path / "home")
    first, second = release_night(settings, seed=1), release_night(settings, seed=2)
    harm_encoder(settings, second, "deleted")
    for _ in range(2):
        with pytest.raises(Damaged, match=rf"{second.release}.*backup.*nightshift rollback --to {first.release}"):
            find_comparable(settings, second)
    back = find_comparable(settings, rollback(settings, first.release))
    assert back is not None
    assert back.release == first.release


def test_an_encoder_with_changed_weights_is_not_that_of_the_release(tmp_path):
    settings = small(tmp_path / "home")
    release = release_night(settings)
    assert find_comparable(settings, release.model_copy(update={"fingerprint": "0" * 20})) is None
