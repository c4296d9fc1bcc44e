"""Helpers shared by the tests: a mount's life cycle, libc calls that ``os`` lacks, child processes, page makers."""
