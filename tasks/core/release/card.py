"""The model card of a released encoder, in Hugging Face's format. It is next to the manifest of the release.

A card is never part of an encoder's artifact: no fingerprint and no checksum depends on it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import load
from tasks.core.base.languages import LANGUAGES
from tasks.core.base.receipts import Encoder, Evaluation, Release, Snapshot
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.base.templates import read_template
from tasks.core.encoder.dual_encoder import EncoderSpec, read_spec
from tasks.core.evaluation.evaluate import read_per_query
from tasks.core.evaluation.measures import NAMES
from tasks.core.evaluation.significance import compare_paired, interval
from tasks.core.evaluation.systems import System

CARD = "README.md"

log = logging.getLogger("nightshift.release")
