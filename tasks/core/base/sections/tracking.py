"""Settings of experiment trackers: `[tracking]` in the settings file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tasks.core.base.section import Section


class TrackingSettings(Section):
    """Where each night is also recorded. Passwords come from the tracker's own environment variables."""

    tracker: Literal["none", "mlflow", "wandb"] = Field(
        "none",
        description="experiment tracker that gets each night; mlflow: a server (extra mlflow); wandb: offline files in "
        "home/tracking/wandb for `wandb sync` (extra wandb)",
    )
    url: str = Field(
        "",
        pattern=r"^(https?://[^\s@]+)?$",
        description="mlflow only: address of the server, such as http://mlflow.example.org:5000; empty: "
        "MLFLOW_TRACKING_URI",
    )
    experiment: str = Field("nightshift", min_length=1, description="experiment or project of the tracker")
    model: str = Field(
        "nightshift-encoder",
        pattern=r"^[A-Za-z0-9._-]+$",
        description="registered model: a version per release; the alias serving follows the pointer",
    )
    weights: bool = Field(False, description="also upload the encoder's weights with each release")
    seconds: float = Field(
        20, gt=0, description="maximum seconds that the end of a night waits for the tracker; the rest is sent later"
    )
