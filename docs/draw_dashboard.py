"""Take the picture of the dashboard: ``python docs/draw_dashboard.py RUNS_DIR OUT.png [QUERY]``.

Needs Chromium. The query says what is seen, as the address of the page does, for example
``experiment=dqn-cartpole&experiment=ppo-cartpole&list=experiments``.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

SIZE: ViewportSize = {"width": 1440, "height": 860}
DRAWN = "#graph .scatterlayer .trace, #view img, #view table, #view .graph"


def draw(page: Page, folder: str, out: str, query: str) -> None:
    """Serve the folder, open it in a page, and write what it shows once that is drawn."""
    command = [sys.executable, "-m", "rlgen", "dashboard", folder, "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url = json.loads(server.stdout.readline())["url"]
            page.set_viewport_size(SIZE)
            page.goto(f"{url}?{query}")
            page.wait_for_selector(DRAWN)
            page.wait_for_load_state("networkidle")
            picture = Image.open(io.BytesIO(page.screenshot()))
        finally:
            server.terminate()
    picture.quantize(256, method=Image.Quantize.FASTOCTREE).save(out, optimize=True)


if __name__ == "__main__":
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        draw(browser.new_page(), sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
