"""What ``tools/bench`` is made of.

::

    command    options, bad input, clean-up, output       report    table and JSON
      |
    schedule   rows x rounds x targets, interleaved       figures   latencies, medians, paired ratios
      |
    rows       reads, writes, lookups: what is            scale     a million files: memory, recovery, ls
      |        measured, against which peer
    bench      what rows share: options, targets, files   fio       the peer on the raw file
      |                                                   storemap  where in the store's file the pages lie
    targets    kvfs mounts, plain directories             system    processes, memory, caches, mounts
      |
    workers    forked clients, started together
      |
    workloads  what one client does                       pattern   content that proves where it came from

How the figures are made honest:

* A claim is a ratio of two figures of one run. In every round all targets are prepared first (remounted, emptied,
  caches dropped), then measured one right after the other, so that what came before is the same for each; the order
  rotates from round to round. The ratio is taken within the round; shown are median, minimum and maximum over the
  rounds.
* Every answer is checked while it is timed (first and last block of each request carry who they are), and all of its
  bytes once per row outside the timing.
* Writes end with an fsync of the directory inside the timing, as fio's do (``end_fsync``): bytes that are only on their
  way do not count.
* The clients are processes, one per "thread", so that Python's lock is in nobody's way; the row ``generator``
  shows them beside fio on tmpfs.
"""
