"""Pictures: pure functions from plain values to text. They know neither databases nor processes."""

from liteflow.visualize.dot import dot
from liteflow.visualize.gantt import gantt
from liteflow.visualize.mermaid import flowchart
from liteflow.visualize.picture import Node, Picture, dag_picture, run_picture
from liteflow.visualize.states import state_diagram
from liteflow.visualize.text import graph_text
from liteflow.visualize.timeline import Bar, Lane, Timeline, Try, lanes, timeline
from liteflow.visualize.timeline_text import timeline_text

__all__ = [
    "Bar",
    "Lane",
    "Node",
    "Picture",
    "Timeline",
    "Try",
    "dag_picture",
    "dot",
    "flowchart",
    "gantt",
    "graph_text",
    "lanes",
    "run_picture",
    "state_diagram",
    "timeline",
    "timeline_text",
]
