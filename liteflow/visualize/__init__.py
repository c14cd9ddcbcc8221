"""Pictures: pure functions from plain values to text. They know neither databases nor processes."""

from liteflow.visualize.mermaid import flowchart
from liteflow.visualize.picture import Node, Picture
from liteflow.visualize.states import state_diagram
from liteflow.visualize.timeline import Bar, Lane, Timeline, Try, lanes, timeline

__all__ = [
    "Bar",
    "Lane",
    "Node",
    "Picture",
    "Timeline",
    "Try",
    "flowchart",
    "lanes",
    "state_diagram",
    "timeline",
]
