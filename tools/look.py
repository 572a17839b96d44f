"""Look at the built pages in a real browser: ``python tools/look.py [--site DIR] [--shots DIR]``.

Every page of ``site/`` is opened in headless Chromium at two widths, that of a small laptop and
that of a telephone. Reported is what a reader could not see: an element that is wider than its box
(``scrollWidth > clientWidth``), and one that reaches beyond the window. Only the standard library
and a Chromium are needed; without one the script says so and ends with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[1]
WIDTHS = (1280, 390)
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
# As root, in a container, Chromium has no sandbox of its own and little shared memory.
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
)

# The page that looks at the others, each in a frame as wide as the window it stands for: media
# queries ask the frame. What it finds it posts back.
LOOKING = """<!doctype html><meta charset="utf-8"><title>look</title><body><script>
const PAGES = %(pages)s, WIDTHS = %(widths)s;
const path = element => {
  const own = element.tagName.toLowerCase() + (element.id ? "#" + element.id : "")
    + [...element.classList].map(name => "." + name).join("");
  const text = (element.textContent || "").trim().replace(/\\s+/g, " ").slice(0, 60);
  return own + (text ? " '" + text + "'" : "");
};
const look = (frame, page, width) => {
  const view = frame.contentWindow, doc = frame.contentDocument, found = [];
  doc.querySelectorAll("details").forEach(each => { each.open = true; });
  const parts = ".md-content, .md-header, .md-tabs, .md-footer, .md-sidebar";
  const root = doc.scrollingElement;
  if (root.scrollWidth > width) found.push([root.scrollWidth - width, "the page itself"]);
  for (const part of doc.querySelectorAll(parts)) {
    const place = part.getBoundingClientRect();
    if (place.right <= 0 || place.left >= width) continue;  // a drawer that is closed
    const reported = new Set();  // what stands inside of these needs no word of its own
    for (const element of part.querySelectorAll("*")) {
      if (reported.has(element.parentElement)) { reported.add(element); continue; }
      const box = element.getBoundingClientRect(), style = view.getComputedStyle(element);
      if (!element.children.length && !element.textContent.trim() && !element.src) continue;
      const hidden = style.visibility === "hidden" || style.opacity === "0";
      if (!box.width || !box.height || hidden) continue;
      if (element.closest("svg, .md-search, dialog, label, .md-top")) continue;
      if (element.closest(".md-header__ellipsis")) continue;  // it stands below in full, as title
      if (style.clipPath !== "none" || box.width <= 1) continue;  // for screen readers
      const inside = element.scrollWidth - element.clientWidth;
      const scrolls = inside > 1 && element.clientWidth && style.overflowX !== "visible";
      const beyond = Math.round(Math.max(box.right - width, -box.left));
      if (scrolls || beyond > 1) {
        found.push([scrolls ? inside : beyond, path(element)]);
        reported.add(element);
      }
    }
  }
  return found.map(([pixels, element]) => ({page, width, pixels, element}));
};
const opened = (page, width) => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:900px;border:0`;
  frame.onload = async () => {
    await frame.contentDocument.fonts.ready;
    await new Promise(next => setTimeout(next, 60));  // the theme wraps its tables after loading
    let found;
    try { found = look(frame, page, width); }
    catch (error) { found = [{page, width, pixels: -1, element: String(error)}]; }
    frame.remove();
    done(found);
  };
  frame.src = "/" + page;
  document.body.append(frame);
});
(async () => {
  const found = [];
  for (const width of WIDTHS) for (const page of PAGES) found.push(...await opened(page, width));
  await fetch("/look", {method: "POST", body: JSON.stringify(found)});
})();
</script>"""

FRAME = """<!doctype html><body style="margin:0">
<iframe src="/%(page)s" style="width:%(width)dpx;height:%(height)dpx;border:0"></iframe>"""


class Handler(SimpleHTTPRequestHandler):
    """Serves a built site, the page that looks at it, and takes what that page finds."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self.path.startswith("/look"):
            super().do_GET()
            return
        body = self.server.looking.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.server.found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.done.set()


def browser() -> str | None:
    """Return the path of a Chromium: ``$CHROMIUM``, or the first of the usual names."""
    names = (os.environ.get("CHROMIUM", ""), *BROWSERS)
    return next(
        (found for name in names if name and (found := shutil.which(name))),
        None,
    )


def served(site: Path) -> ThreadingHTTPServer:
    """Return a server of the site on a free port of this machine, already running."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    server.found = []
    server.done = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def cut_off(site: Path, chromium: str, pages: list[str], limit: float = 600.0) -> list[dict]:
    """Return what is cut off: page, width of the window, pixels too many, and the element."""
    server = served(site)
    server.looking = LOOKING % {
        "pages": json.dumps(pages),
        "widths": json.dumps(WIDTHS),
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            chromium,
            *OPTIONS,
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
        ]
        command += [
            "--window-size=1400,1000",
            f"http://127.0.0.1:{server.server_port}/look",
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            if not server.done.wait(limit):
                raise SystemExit(f"The browser did not answer within {limit:g} s: {chromium}")
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
            server.server_close()
    return server.found


def shoot(site: Path, chromium: str, page: str, width: int, height: int, file: Path) -> None:
    """Save a picture of one page at one width."""
    server = served(site)
    server.looking = FRAME % {"page": page, "width": width, "height": height}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            chromium,
            *OPTIONS,
            f"--user-data-dir={profile}",
            "--hide-scrollbars",
        ]
        command += [f"--window-size={width},{height}", f"--screenshot={file}"]
        command += [
            "--virtual-time-budget=5000",
            f"http://127.0.0.1:{server.server_port}/look",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    server.shutdown()
    server.server_close()


def main(arguments: list[str] | None = None) -> int:
    """Look at the pages; return 1 if something is cut off."""
    parser = argparse.ArgumentParser(description="Look at the built pages in a real browser.")
    parser.add_argument("pages", nargs="*", help="pages of the site (default: all)")
    parser.add_argument("--site", type=Path, default=ROOT / "site", help="default: site/")
    parser.add_argument("--shots", type=Path, help="also save a picture of each page here")
    parser.add_argument("--height", type=int, default=2000, help="of a picture, in pixels")
    told = parser.parse_args(arguments)
    chromium = browser()
    if chromium is None:
        print("Not looked at: no Chromium. Debian, Ubuntu: apt install chromium, or set $CHROMIUM.")
        return 0
    if not (told.site / "index.html").exists():
        print(f"No site in {told.site}: run `make docs` first.")
        return 2
    pages = told.pages or sorted(
        file.relative_to(told.site).as_posix() for file in told.site.rglob("*.html")
    )
    found = cut_off(told.site.resolve(), chromium, pages)
    for each in found:
        print("{page} at {width}: {pixels} px cut off, {element}".format(**each))
    print(f"{len(pages)} pages at {WIDTHS} px: {len(found)} elements cut off")
    if told.shots:
        told.shots.mkdir(parents=True, exist_ok=True)
        for page in pages:
            for width in WIDTHS:
                name = page.removesuffix("index.html").strip("/").replace("/", "-") or "home"
                file = told.shots.resolve() / f"{name}-{width}.png"
                shoot(
                    told.site.resolve(),
                    chromium,
                    page,
                    width,
                    told.height,
                    file,
                )
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
