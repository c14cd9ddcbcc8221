"""`liteflow completion`: what a shell needs to complete commands, ids and files; and the answers that it then asks for.

The answers come by click's own protocol. The script for bash is ours: bash takes a word apart at its colons, of which
ids of runs have some, and has to be told the rest of the last part only.
"""

from __future__ import annotations

import os
import sys
from typing import Any, ClassVar, NoReturn

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from liteflow.cli import COMPLETE
from liteflow.cli.common import echo, echo_lines, examples, is_terminal

PROGRAM = "liteflow"

INSTALL = {
    "bash": 'put this line into ~/.bashrc: eval "$(liteflow completion bash)"',
    "zsh": 'put this line into ~/.zshrc, behind compinit: eval "$(liteflow completion zsh)"',
    "fish": "liteflow completion fish > ~/.config/fish/completions/liteflow.fish",
}
"""What to do with each script."""

BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' response completion
    response=$(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_CURRENT="${COMP_WORDS[COMP_CWORD]}" \
COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete "$1" 2>/dev/null)
    COMPREPLY=()
    while read -r completion; do
        case $completion in
            file,*) compopt -o default 2>/dev/null; return 0 ;;
            dir,*) compopt -o dirnames 2>/dev/null; return 0 ;;
            plain,*) COMPREPLY+=("${completion#plain,}") ;;
        esac
    done <<< "$response"
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null || complete -F %(complete_func)s %(prog_name)s
"""


@add_completion_class
class Bash(ShellComplete):
    """Completion in bash, also of words with colons."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and what there is of the last one."""
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        self._incomplete = incomplete
        return words, incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """A line for the script: without what stands before the last colon, which bash keeps as it is."""
        value = str(item.value)
        current = os.environ.get("COMP_CURRENT", "")
        if item.type == "plain" and ":" in os.environ.get("COMP_WORDBREAKS", ":") and current[:1] not in ("'", '"'):
            kept = self._incomplete.rpartition(":")[0] + ":" if ":" in self._incomplete else ""
            value = value.removeprefix(kept)
        return f"{item.type},{value}"


def answer(cli: click.Command) -> NoReturn:
    """Answer a shell that asks for completions. Whatever happens, it says nothing else and ends with 0."""
    try:
        shell, _, instruction = os.environ[COMPLETE].partition("_")
        made_by = get_completion_class(shell)
        if made_by is not None:
            asked = made_by(cli, {}, PROGRAM, COMPLETE)
            echo_lines(asked.complete() if instruction == "complete" else asked.source())
    except Exception:  # somebody is typing: no candidates are better than any message
        pass
    sys.exit(0)


@examples("liteflow completion fish > ~/.config/fish/completions/liteflow.fish", 'eval "$(liteflow completion bash)"')
@click.command("completion")
@click.argument("shell", type=click.Choice(sorted(INSTALL)))
def completion_command(shell: str) -> None:
    """Print what makes a shell complete commands, ids and files.

    Ids of dags, runs, tasks and pools come from the database that the line names with --db, else from $LITEFLOW_DB,
    else from liteflow.db. On a terminal it also says where the script belongs.
    """
    from liteflow.cli import cli

    made_by = get_completion_class(shell)
    assert made_by is not None
    echo_lines(made_by(cli, {}, PROGRAM, COMPLETE).source())
    if is_terminal():
        echo(f"to install it: {INSTALL[shell]}", err=True)
