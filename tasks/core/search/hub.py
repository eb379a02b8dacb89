"""Upload an exported model folder to the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.core.base.errors import NightshiftError
from tasks.core.search.export import IDENTITY


def upload(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload a folder to a model repository; create the repository, private unless `public`, if it is missing.

    The token is that of the hub client: `HF_TOKEN`, or `hf auth login`.

    Args:
        folder: an export in the format "hub", with `release.json`.
        repository: ORGANIZATION/NAME.
        public: whether a new repository is public.

    Returns:
        The address of the commit.

    Raises:
        NightshiftError: the name is invalid, the hub refuses the upload, or it does not answer.
    """
    from huggingface_hub import HfApi

    release = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))["release"]
    api = HfApi(library_name="nightshift")
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Release {release}")
    except Exception as error:  # of the client, its HTTP library, or the network
        raise NightshiftError(
            f"{repository}: cannot be uploaded ({type(error).__name__}: {error}). Check the name, HF_TOKEN, "
            "HF_ENDPOINT, and the network. Without --upload, the command writes a folder and uses no network"
        ) from error
    return str(commit)
