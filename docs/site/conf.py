"""How Sphinx makes a site of README, CHANGELOG and docs: `make docs`. Sources are read where they lie."""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

project = "In-training defences against emergent misalignment"
author = ""
html_title = "Defences against emergent misalignment"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "CHANGELOG.md", "docs/*.md", "docs/arms/*.md"]
# Not walked through.
exclude_patterns = [".*", "results", "sources", "site", "workflow", "tests", "microcosm_models", "benchmarks", "logs"]

myst_heading_anchors = 4  # as GitHub has them
myst_enable_extensions = ["strikethrough"]
suppress_warnings = ["myst.strikethrough"]

html_theme = "furo"  # light and dark, nothing from elsewhere
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_dark_style = "github-dark"

# Sphinx wants the pages named in one of them; on GitHub, README's links suffice.
PAGES = """

```{toctree}
:hidden:
:caption: First steps
docs/tutorial
docs/reading-the-results
docs/sharing
docs/faq
```

```{toctree}
:hidden:
:caption: Your own study
docs/adding-a-task
docs/adding-a-model
docs/adding-a-defence
docs/judging
docs/plan-and-status
docs/cluster
docs/performance
```

```{toctree}
:hidden:
:caption: Reference
docs/config
docs/defences
docs/arms/index
```

```{toctree}
:hidden:
:caption: The paper and this project
docs/reproducing
docs/divergences
docs/training-log
CHANGELOG
```
"""

ARMS = """

```{toctree}
:hidden:
:glob:
*
```
"""


def add_pages(app: Sphinx, name: str, source: list[str]) -> None:
    """Name all pages at the end of the first one, and the arms' at the end of their list."""
    source[0] += {root_doc: PAGES, "docs/arms/index": ARMS}.get(name, "")


def make_index(app: Sphinx, error: Exception | None) -> None:
    """Let the first page also be what a browser opens of a folder."""
    if error is None:
        shutil.copy(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> None:
    """Register both."""
    app.connect("source-read", add_pages)
    app.connect("build-finished", make_index)
