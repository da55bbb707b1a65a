"""The report in a real browser, where there is one."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from rlpolicy.experiment import RunFolder, algorithms, cli

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs Chromium")]
PROBE = """<script>addEventListener("load", () => parent.postMessage({
  width: innerWidth, scroll: document.documentElement.scrollWidth,
  back: getComputedStyle(document.body).backgroundColor,
  lengths: [...document.querySelectorAll("polyline")].map(line => line.getTotalLength()),
  requests: performance.getEntriesByType("resource").map(entry => entry.name)}, "*"))</script>"""
PHONE = """<!DOCTYPE html><body><iframe src="probed.html" style="width: 390px; height: 800px; border: 0"></iframe>
<script>addEventListener("message", e => document.body.insertAdjacentHTML("beforeend",
  "<pre id=found>" + JSON.stringify(e.data) + "</pre>"))</script>"""


def look(page: Path, *options: str) -> tuple[dict[str, Any], str]:
    """What the page says about itself on a screen of 390 pixels, and what the browser complains about."""
    page.with_name("probed.html").write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    outer = page.with_name("phone.html")
    outer.write_text(PHONE)
    command = [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    command += [
        f"--user-data-dir={page.parent / 'profile'}",
        "--virtual-time-budget=3000",
        "--dump-dom",
        outer.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre id=\"found\">(.*?)</pre>", done.stdout, flags=re.DOTALL)
    assert found is not None, done.stdout[-500:]
    return json.loads(unescape(found[1])), "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Three seeds of one algorithm and one of another, with long names."""
    paths = []
    for algorithm, seed in (("ddpg", 0), ("ddpg", 1), ("ddpg", 2), ("sac", 0)):
        path = tmp_path / ("a_long_name_" * 6 + f"{algorithm}_{seed}")
        folder = RunFolder.create(path, algorithms()[algorithm](seed=seed))
        rows: list[dict[str, Any]] = []
        for step in range(0, 10_000, 500):
            rows.append(
                {"step_type": "test/env_step", "step": step, "test/returns_stat/mean": -(seed + 2) * 1e5 / (step + 1)}
            )
            rows.append({"step_type": "update/gradient_step", "step": step, "update/critic_loss": step % 3 + 1e-3})
        folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(str(path))
    assert cli.main(["report", *paths, "--out", str(tmp_path / "report.html")]) == 0
    return tmp_path / "report.html"


def test_the_page_is_drawn_and_fits_a_phone(page: Path) -> None:
    found, complaints = look(page)
    assert complaints == ""
    assert found["requests"] == []
    assert found["width"] == 390
    assert found["scroll"] <= 390
    assert len(found["lengths"]) == 2 + 4
    assert all(length > 100 for length in found["lengths"])


def test_light_and_dark(page: Path) -> None:
    light, _ = look(page)
    dark, _ = look(page, "--blink-settings=preferredColorScheme=0")
    assert light["back"] == "rgb(255, 255, 255)"
    assert dark["back"] == "rgb(20, 23, 27)"
