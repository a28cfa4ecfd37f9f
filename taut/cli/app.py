"""The command tree. Each command imports what it needs when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="Taut takes the slack out of neural networks: ONNX in, fast int8 programs out.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import taut

        print(f"taut {taut.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass
