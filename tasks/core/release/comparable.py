"""Choose the release that a night compares its challenger with: one whose encoder files are intact."""

from __future__ import annotations

import logging
from pathlib import Path

from tasks.core.base.errors import Damaged
from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Encoder, Release
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.ledger import open_ledger
from tasks.core.release.rollback import rollback_target

log = logging.getLogger("nightshift.release")


def find_comparable(settings: HomeSettings, serving: Release | None) -> Release | None:
    """Return `serving` if its encoder is intact; None if no release with an intact encoder is left.

    A trained encoder cannot be rebuilt from its release. Without one the night trains from the base model, like a
    first night, and the gate compares the challenger with BM25 and the base model.

    Raises Damaged when the encoder is lost but an older release can serve: rolling back is the user's decision.
    """
    if serving is None or _is_encoder_intact(settings.home, serving):
        return serving
    folder = settings.home / Encoder.shelf / serving.encoder
    with open_ledger(settings) as ledger:
        name = rollback_target(ledger, serving)
        older = next((release for release in ledger.releases() if release.release == name), None)
    if older is not None and _is_encoder_intact(settings.home, older):
        raise Damaged(
            f"{folder}: the encoder of the serving release {serving.release} is damaged or missing and cannot be "
            "rebuilt. Restore it from a backup, or serve the previous release: "
            f"nightshift rollback --to {older.release}"
        )
    log.warning(
        "%s: the encoder of the serving release %s is damaged or missing, and no older release can serve. "
        "This night trains from the base model. To keep the release, restore the folder from a backup",
        folder, serving.release,
    )  # fmt: skip
    return None


def _is_encoder_intact(home: Path, release: Release) -> bool:
    encoder = find_artifact(home, Encoder, release.encoder)
    return encoder is not None and encoder.fingerprint == release.fingerprint
