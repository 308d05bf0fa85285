"""The documentation as a website: ``sphinx-build docs site``."""

from __future__ import annotations

import re
from pathlib import Path

project = "Yukari"
author = "The Yukari authors"
_package = Path(__file__).parent.parent / "yukari" / "__init__.py"
_found = re.search(r'^__version__ = "(.*)"$', _package.read_text(encoding="utf-8"), re.MULTILINE)
assert _found is not None
release = version = _found[1]

html_theme = "furo"
html_title = f"Yukari {release}"
nitpicky = True
# Shell and configuration stand side by side in these pages; most of it is not Python.
highlight_language = "none"
