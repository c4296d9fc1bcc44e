"""The commands: ``kvfs`` (mount, umount), ``kvfsctl`` (administration) and ``mount.kvfs`` (for mount(8)).

Each console script is an ``app.run(...)`` around a typer application. What a command does lies in modules
without typer, so that it can be called and tested without a command line. Start-up time counts: pyfuse3, trio
and the native module are imported only where they are used.
"""
