"""Every optional feature of kernel and hardware, probed in one place.

A probe is a function without arguments that returns one :class:`~kvfs.cli.probes.finding.Finding`. It changes
nothing, takes milliseconds, and turns "cannot tell" into a finding instead of an exception. ``kvfs mount`` asks
some of them before it starts; ``kvfsctl doctor`` prints them all.
"""
