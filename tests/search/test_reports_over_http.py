"""Reports over HTTP are read-only and need the token; no other file of home is served."""

from __future__ import annotations

from fastapi.testclient import TestClient
from release_world import HashingEncoder, release_night, small

from tasks.core.base.sections.service import ServiceSettings
from tasks.core.search.http import make_app
from tasks.core.search.service import Service


def serving(settings, **service):
    settings = settings.model_copy(update={"service": ServiceSettings(**service)})
    return TestClient(make_app(Service.open(settings, HashingEncoder)), base_url="http://127.0.0.1")


def test_reports_are_served_and_nothing_else_of_home(tmp_path):
    settings = small(tmp_path / "var")
    release_night(settings, seed=1)
    pages = {
        "reports/2026-03-01T020000Z.html": "a night",
        "reports/index.html": "all nights",
        "ingests/abc/contracts.html": "rules",
        "refused/abc/quarantine.parquet": "rows",
    }
    secrets = ["reports/notes.txt", "ingests/abc/manifest.json", "releases/abc/contracts.html", "pointer.json"]
    for path, text in {**pages, **dict.fromkeys(secrets, "hidden")}.items():
        (settings.home / path).parent.mkdir(parents=True, exist_ok=True)
        (settings.home / path).write_text(text)
    (settings.home.parent / "outside.html").write_text("hidden")
    wrong = [f"/{path}" for path in secrets]
    wrong += ["/reports/../../outside.html", "/reports/%2e%2e/%2e%2e/outside.html", "/reports/..%2f..%2foutside.html"]
    wrong += ["/reports/.html", "/reports//etc/passwd", "/ingests/../reports/index.html", "/reports/nothing.html"]
    with serving(settings) as client:
        for path, text in {**pages, "reports/": "all nights"}.items():
            page = client.get(f"/{path}")
            assert (page.status_code, page.text) == (200, text)
            assert "script" not in page.headers["content-security-policy"]
        for path in wrong:
            response = client.get(path)
            assert response.status_code == 404 or response.text == "all nights"  # the client resolved the dots itself
        assert client.post("/reports/index.html").status_code == 405
    with serving(settings, token="hidden-word") as client:
        refusal = client.get("/reports/")
        assert (refusal.status_code, refusal.headers["www-authenticate"][:5]) == (401, "Basic")
        assert client.get("/reports/", auth=("anyone", "wrong")).status_code == 401
        assert client.get("/reports/", headers={"authorization": "Basic !"}).status_code == 401
        assert client.get("/reports/", auth=("anyone", "hidden-word")).text == "all nights"
        assert client.get("/reports/", headers={"authorization": "Bearer hidden-word"}).text == "all nights"
        search = client.post("/search", json={"query": "lamp"}, auth=("anyone", "hidden-word"))
        assert search.status_code == 401  # browsers send Basic credentials with requests from other sites
