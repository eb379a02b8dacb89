"""The serving release as a night can compare itself with it: only with an encoder whose files are whole."""

from __future__ import annotations

import logging

from tasks.core.base.errors import Damaged
from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Encoder, Release
from tasks.core.base.settings import Settings
from tasks.core.release.ledger import open_ledger
from tasks.core.release.rollback import rollback_target

log = logging.getLogger("nightshift.release")


def comparable(settings: Settings, serving: Release | None) -> Release | None:
    """Return `serving` if its encoder is whole; None if the encoder is lost and no older release can serve either.

    A trained encoder cannot be made again from the release alone. Without it the night trains from the base model, as
    a first night does, and the gate compares with BM25 and the base model.

    Raises Damaged when the encoder is lost and an older release can serve: a person decides to roll back to it.
    """
    if serving is None or _encoder_is_whole(settings, serving):
        return serving
    place = settings.home / Encoder.shelf / serving.encoder
    with open_ledger(settings) as ledger:
        name = rollback_target(ledger, serving)
        older = next((one for one in ledger.releases() if one.release == name), None)
    if older is not None and _encoder_is_whole(settings, older):
        raise Damaged(
            f"{place}: the encoder of the serving release {serving.release} is damaged or lost, and cannot be made "
            f"again. Restore it from a backup, or serve the release before: nightshift rollback --to {older.release}"
        )
    log.warning(
        "%s: the encoder of the serving release %s is damaged or lost, and no older release can serve. "
        "This night trains from the base model; to keep the release, restore the folder from a backup",
        place, serving.release,
    )  # fmt: skip
    return None


def _encoder_is_whole(settings: Settings, release: Release) -> bool:
    encoder = find_artifact(settings.home, Encoder, release.encoder)
    return encoder is not None and encoder.fingerprint == release.fingerprint
