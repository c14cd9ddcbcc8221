"""What a notebook shows of a dag or a run.

JupyterLab from 4.1 and Notebook from 7.1 draw `text/vnd.mermaid` themselves; others, VS Code among them, show the plain
text. There is no HTML: those that draw Mermaid would prefer it.
"""

from __future__ import annotations

from liteflow.visualize.lines import clean
from liteflow.visualize.mermaid import MOST_CHARACTERS, MOST_EDGES, flowchart
from liteflow.visualize.picture import Picture
from liteflow.visualize.text import graph_text

MOST_DRAWN = 500
"""Tasks that are drawn. Of larger pictures a notebook, which is stored with what it shows, gets a line."""

MOST_ROWS = 25
"""Tasks that are drawn in plain text."""

PLAIN_WIDTH = 80


def mime_bundle(picture: Picture) -> dict[str, str]:
    """The picture by MIME type: plain text always, Mermaid unless it is too large for it."""
    size = len(picture.nodes)
    heading = f"{clean(picture.title)}, {size:,} task{'' if size == 1 else 's'}"
    bundle = {"text/plain": heading}
    if 0 < size <= MOST_ROWS:
        bundle["text/plain"] += "\n" + graph_text(picture, width=PLAIN_WIDTH, expand=True).rstrip("\n")
    if size <= MOST_DRAWN and len(picture.edges()) <= MOST_EDGES:
        drawn = flowchart(picture)
        if len(drawn) <= MOST_CHARACTERS:
            bundle["text/vnd.mermaid"] = drawn
    return bundle
