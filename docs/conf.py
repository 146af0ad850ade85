"""Builds the site of the documentation; `make docs` runs it without the network."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

DOCS = Path(__file__).parent
ROOT = DOCS.parent
REPOSITORY = "https://github.com/websocket-handler/websocket-handler"

project = "websocket-handler"
author = "the contributors of websocket-handler"
project_copyright = author
version = release = installed_version("websocket-handler")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

nitpicky = True
nitpick_ignore_regex = [
    # Names of other projects cannot be resolved without the network; submodules are not public.
    (r"py:.*", r"(?!websocket_handler\.\w+$).*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "code"  # docstrings write `name`
python_maximum_signature_line_length = 80

LINK = re.compile(r"\]\((\.\.?/[^)#\s]+)(#[^)\s]*)?\)")
log = logging.getLogger(__name__)


def link_to_the_repository(_: Sphinx, page: str, source: list[str]) -> None:
    """Replace links to files outside of docs/ by their addresses on GitHub."""
    folder = (DOCS / page).parent

    def replaced(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target.is_relative_to(DOCS) or not target.is_relative_to(ROOT):
            return link[0]
        if not target.exists():
            log.warning("link to a missing file: %s", link[1], location=page)
        kind = "tree" if target.is_dir() else "blob"
        return f"]({REPOSITORY}/{kind}/main/{target.relative_to(ROOT)}{link[2] or ''})"

    source[0] = LINK.sub(replaced, source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", link_to_the_repository)
