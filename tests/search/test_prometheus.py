"""A Prometheus server scrapes the service under load and over a swap; every query of the dashboard has a result."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest
from milvus_servers import free_port, wait_for
from release_world import release_night, small
from test_metrics import dashboard_queries, rejected_night
from test_service_process import running, search
from waiting import wait_until

from tasks.core.release.rollback import rollback
from tasks.core.report.history import record
from tasks.core.report.night_metrics import write_night_metrics

PROMETHEUS = shutil.which("prometheus")


@contextmanager
def prometheus(folder, target):
    """Start a Prometheus that scrapes `target` every second; yield its address."""
    address, config = f"127.0.0.1:{free_port()}", folder / "prometheus.yml"
    job = {"job_name": "nightshift", "static_configs": [{"targets": [target]}]}
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}", f"--web.listen-address={address}"]
    with subprocess.Popen([PROMETHEUS, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: urllib.request.urlopen(f"http://{address}/-/ready", timeout=5), process, 60)
            yield f"http://{address}"
        finally:
            process.terminate()


def query(address, expression):
    """Return the instant vector of a query: a list of (labels, value)."""
    parameters = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{address}/api/v1/query?{parameters}", timeout=10) as response:
        data = json.load(response)
    assert data["status"] == "success"
    return [(series["metric"], float(series["value"][1])) for series in data["data"]["result"]]


def wait_for_result(address, expression):
    wait_until(lambda: query(address, expression), f"a result of {expression} in Prometheus", 120)


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus")
def test_a_real_prometheus_sees_load_and_a_swap_and_answers_every_query_of_the_dashboard(tmp_path):
    settings = small(tmp_path / "var", notice_seconds=0.1)
    first, second = (release_night(settings, seed=seed, weight=0.5).release for seed in (1, 2))
    night = rejected_night()
    record(settings.home, night)
    write_night_metrics(settings.home, night)
    with running(settings) as (_, address), prometheus(tmp_path, urllib.parse.urlsplit(address).netloc) as server:
        done = threading.Event()

        def keep_searching(mode):
            while not done.wait(0.01):
                search(address, query="lamp river", mode=mode)

        threads = [threading.Thread(target=keep_searching, args=(mode,)) for mode in ("dense", "hybrid", "lexical")]
        for thread in threads:
            thread.start()
        try:
            wait_for_result(server, "sum(rate(nightshift_queries_total[10s])) > 0")
            rollback(settings, first)
            wait_for_result(server, "max(nightshift_swaps_total) == 1 and sum(rate(nightshift_queries_total[10s])) > 0")
            releases = {labels["release"] for labels, _ in query(server, "nightshift_serving_release_info")}
            assert releases == {first}
            history = query(server, "count_over_time(nightshift_serving_release_info[1m])")
            assert {labels["release"] for labels, _ in history} == {first, second}
            texts = [text.replace("$job", ".*").replace("$__rate_interval", "30s") for text in dashboard_queries()]
            empty = [text for text in texts if not query(server, text)]
        finally:
            done.set()
            for thread in threads:
                thread.join()
    # This night failed before it embedded or evaluated.
    assert [text for text in empty if not re.search(r"night_(quality|passages_embedded|vectors_reused)", text)] == []
