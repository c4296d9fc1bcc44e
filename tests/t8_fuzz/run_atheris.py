"""``run_atheris.py TARGET [libFuzzer's arguments]``: one of ``targets.TARGETS`` under atheris."""

import sys

import atheris

with atheris.instrument_imports(include=["kvfs"]):
    from targets import TARGETS

atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
atheris.Fuzz()
