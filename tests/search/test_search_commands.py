from __future__ import annotations

import pytest
from typer.testing import CliRunner

from flows.cli import app


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serve", "--host", "0.0.0.0"], 1, "NIGHTSHIFT_SERVICE__TOKEN"),
        (["search", "--serve", "--host", "0.0.0.0"], 1, "NIGHTSHIFT_SERVICE__TOKEN"),  # the earlier form
        (["search"], 2, "nightshift serve"),
        (["search", "lamp", "--serve"], 2, "nightshift serve"),
        (["search", "lamp", "--where", "[1"], 2, "not JSON"),
        (["search", "lamp", "--where", "[1]"], 2, "not a JSON object"),
        (["search", "lamp"], 1, "nightshift run"),
        (["search", "lamp", "--release", "r7"], 1, "none yet"),
    ],
)
def test_the_command_reports_wrong_usage(tmp_path, arguments, code, message):
    result = CliRunner().invoke(app, arguments, env={"NIGHTSHIFT_HOME": str(tmp_path / "var")})
    assert result.exit_code == code
    assert message in result.output
