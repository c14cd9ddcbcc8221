"""Pictures: pure functions from plain values to text. They know neither databases nor processes."""

from liteflow.visualize.mermaid import flowchart
from liteflow.visualize.picture import Node, Picture
from liteflow.visualize.states import state_diagram

__all__ = ["Node", "Picture", "flowchart", "state_diagram"]
