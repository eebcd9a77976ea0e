"""Fail if a built page would fetch anything from another machine while it is read.

Usage: python offline.py _build/html. Links that a reader may follow are fine; what a browser loads
by itself (scripts, styles, fonts, images, frames) must lie beside the pages.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

REMOTE = re.compile(r"\s*(?:https?:|wss?:)?//", re.IGNORECASE)
STYLE_URL = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", re.IGNORECASE)
LOADING_RELS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch"}
LOADING_RELS |= {"modulepreload", "apple-touch-icon", "manifest", "shortcut"}


class _Loads(HTMLParser):
    """Collects the URLs that a browser loads by itself, with the line they stand on."""

    def __init__(self):
        super().__init__()
        self.urls: list[tuple[int, str]] = []
        self.in_style = False

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.in_style = tag == "style"
        found = [values.get(name, "") for name in ("src", "poster", "data", "background")]
        found += [part.split()[0] for part in values.get("srcset", "").split(",") if part.strip()]
        found += ["".join(match) for match in STYLE_URL.findall(values.get("style", ""))]
        if tag == "link" and LOADING_RELS & set(values.get("rel", "").lower().split()):
            found.append(values.get("href", ""))
        if tag in ("image", "use", "feimage"):  # inside an SVG
            found += [values.get("href", ""), values.get("xlink:href", "")]
        self.urls += [(self.getpos()[0], url) for url in found]

    def handle_data(self, data):
        if self.in_style:
            self.urls += [(self.getpos()[0], "".join(m)) for m in STYLE_URL.findall(data)]


def remote_loads(folder: Path) -> list[str]:
    """`file:line: URL` for everything that the pages and styles in `folder` load from elsewhere."""
    found = []
    for page in sorted(folder.rglob("*.html")):
        parser = _Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        found += [(page, line, url) for line, url in parser.urls]
    for style in sorted(folder.rglob("*.css")):
        for line, text in enumerate(style.read_text(encoding="utf-8").splitlines(), start=1):
            found += [(style, line, "".join(match)) for match in STYLE_URL.findall(text)]
    return [f"{path}:{line}: {url[:200]}" for path, line, url in found if REMOTE.match(url)]


def main(folder: Path) -> int:
    """Print the offenders; 1 if there are any, or if there is no page to look at."""
    if not any(folder.rglob("*.html")):
        print(f"{folder} holds no page; build the book first", file=sys.stderr)
        return 1
    found = remote_loads(folder)
    for line in found:
        print(f"{line}: copy this file into the book; reading must need no network")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
