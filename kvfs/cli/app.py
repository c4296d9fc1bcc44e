"""What every console script does the same way: errors as one line, exit statuses, ``--version``."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from kvfs.errors import KvfsError, one_line

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def make_app(summary: str) -> typer.Typer:
    """An application with subcommands; without one it prints its help and exits with 2."""
    app = typer.Typer(
        help=summary,
        add_completion=False,
        invoke_without_command=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        context: typer.Context,
        _version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        if context.invoked_subcommand is None:
            print(context.get_help())
            raise typer.Exit(2)

    return app


def run(app: typer.Typer, program: str) -> NoReturn:
    """Run ``app`` on ``sys.argv`` and exit: 0, 2 for usage, 1 for failure, each failure with one line on stderr."""
    try:
        status = app(prog_name=program, standalone_mode=False) or 0
        if status == INTERRUPTED:  # Ctrl-C, which typer catches and keeps to itself
            fail(program, "interrupted", status)
    except KvfsError as error:
        status = fail(program, str(error), error.exit_status)
    except typer.TyperException as error:
        found = one_line(error.format_message()).rstrip(".")
        status = fail(program, f"{found}; see `{_command_of(error) or program} --help`", error.exit_code)
    except ImportError as error:
        if error.name != "kvfs._native":
            raise
        status = fail(program, f"{one_line(str(error))}; build it with tools/quickstart --setup", 1)
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        status = fail(program, one_line(f"{name}{error.strerror or error}"), 1)
    except (KeyboardInterrupt, typer.Abort):
        status = fail(program, "interrupted", INTERRUPTED)
    sys.exit(status)


def fail(program: str, line: str, status: int) -> int:
    print(f"{program}: {line}", file=sys.stderr)
    return status


def print_json(value: Any) -> None:
    """Structs, dataclasses, paths and plain values, indented."""
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value, enc_hook=_path_text), indent=2).decode())


def _path_text(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"no JSON of {type(value).__name__}")


def _command_of(error: typer.TyperException) -> str | None:
    """The command, with its subcommand, that a usage error is about."""
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else None


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("kvfs"))
        raise typer.Exit
