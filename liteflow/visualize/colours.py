"""The colours of states, for every format that has colours."""

from __future__ import annotations

COLOURS: dict[str, tuple[str, str, str]] = {
    "pending": ("#f4f4f5", "#a1a1aa", "#3f3f46"),
    "queued": ("#e4e4e7", "#71717a", "#27272a"),
    "running": ("#bef264", "#4d7c0f", "#1a2e05"),
    "success": ("#86efac", "#15803d", "#052e16"),
    "failed": ("#f87171", "#991b1b", "#450a0a"),
    "skipped": ("#fbcfe8", "#be185d", "#500724"),
    "upstream_failed": ("#fdba74", "#c2410c", "#431407"),
    "up_for_retry": ("#fde047", "#a16207", "#422006"),
    "up_for_reschedule": ("#67e8f9", "#0e7490", "#083344"),
    "removed": ("#d4d4d8", "#52525b", "#27272a"),
}
"""Fill, border, text of each state. Readable on light and dark pages, and told apart by lightness too."""
