"""`liteflow scaffold`."""

from __future__ import annotations

import click

from liteflow.cli import completing
from liteflow.cli.common import checked_name, echo, echo_lines, examples

TEMPLATE = '''"""The dag {dag_id}. Run it with `python FILE` or `liteflow run FILE`."""

import sys

from liteflow import Dag, task


@task(retries=2, retry_delay=1)
def extract(day: str) -> list[int]:
    """Get the numbers of a day. A failed try is made again, twice at most."""
    print(f"extracting {{day}}")
    return [len(part) for part in day.split("-")] + [40]


@task
def load(numbers: list[int]) -> int:
    """Take what `extract` returned; passing it along made the edge."""
    total = sum(numbers)
    print(f"loading {{len(numbers)}} numbers, {{total}} in all")
    return total


with Dag(
    "{dag_id}",
    description="Two tasks, one value",
    params={{"day": "2026-01-01"}},
) as dag:
    load(extract(dag.param("day")))

if __name__ == "__main__":
    run = dag.run()
    print(f"{{run.state}}: {{run.xcom('load')}}")
    sys.exit(0 if run.state == "success" else 1)
'''


@examples("liteflow scaffold > my_workflow.py", "liteflow scaffold --dag-id nightly -o nightly.py")
@click.command("scaffold")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=completing.files,
    help="Write to FILE, which must not exist, instead of stdout.",
)
@click.option(
    "--dag-id",
    default="my_workflow",
    show_default=True,
    callback=lambda _ctx, _param, name: checked_name("dag id", name),
    help="The id of the dag.",
)
def scaffold_command(output: str | None, dag_id: str) -> None:
    """Write a dag file to start from. It has two tasks that pass a value."""
    text = TEMPLATE.format(dag_id=dag_id)
    if output is None:
        echo_lines(text)
        return
    try:
        with open(output, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise click.UsageError(f"{output}: exists; nothing was written. Choose another name.") from None
    except OSError as error:
        raise click.UsageError(f"{output}: {error.strerror}") from None
    except ValueError as error:  # a NUL, or half of a character
        raise click.UsageError(f"{output}: {error}") from None
    echo(f"wrote {output}; run it with: liteflow run {output}", err=True)
