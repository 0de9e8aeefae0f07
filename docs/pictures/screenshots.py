"""Take the site's screenshots of a run: ``python docs/pictures/screenshots.py RUN``, RUN a run's path.

Makes the report and the live page, in light and dark, on a desktop and on a phone. Needs chromium, and the development
tools of this repository.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from blendsearch.results.report.report import write_report
from blendsearch.runs.run import open_run

ROOT = Path(__file__).parents[2]
PICTURES = Path(__file__).parent
REPORT, LIVE, WHOLE, PHONE = (860, 1000), (1000, 1045), (860, 1130), (390, 844)
"""Width and height of the pages in pixels."""

sys.path.insert(0, str(ROOT / "tests" / "helpers"))
from serving import TOKEN, served  # noqa: E402


def open_page(browser: Browser, url: str, size: tuple[int, int], scheme: str) -> Page:
    """Open `url` in a window of `size`, in the colour scheme ``light`` or ``dark``."""
    width, height = size
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(url)
    return page


def save_screenshot(page: Page, path: Path) -> None:
    """Save what the window shows, with 256 colours."""
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)
    print(path.relative_to(ROOT))


def main(where: Path) -> None:
    run = open_run(where.parent, where.name)
    with sync_playwright() as tools, served(where.parent) as server, tempfile.TemporaryDirectory() as folder:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report = Path(folder) / "report.html"
        write_report(run, report)
        for scheme in ("light", "dark"):
            for prefix, sizes in (("", (REPORT, LIVE)), ("phone-", (PHONE, PHONE))):
                page = open_page(browser, report.as_uri(), sizes[0], scheme)
                save_screenshot(page, PICTURES / f"{prefix}report-{scheme}.png")
                page = open_page(browser, f"{server.url}/runs/{run.name}#token={TOKEN}", sizes[1], scheme)
                page.wait_for_selector("#plot svg .marks use", state="attached")
                page.wait_for_selector("#answer")
                save_screenshot(page, PICTURES / f"{prefix}live-{scheme}.png")
        save_screenshot(open_page(browser, report.as_uri(), WHOLE, "light"), ROOT / "docs" / "report.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
