"""What ``tools/bench`` is made of.

::

    command    options, bad input, clean-up, output       tables    for people     report    JSON
      |                                                    notes     what is said around them
    schedule   rows x rounds x targets, interleaved       figures   latencies, medians, paired ratios
      |                                                    goals     what is asked, met or missed
    rows       reads, memory, writes, lookups: what       scale     a million files: memory, recovery, ls
      |        is measured, against which peer            loopcost  a 4 KiB request: microseconds, instructions
    bench      what rows share: options, targets, files   fio       the peer on the raw file, and random reads
      |                                                    storemap  where in the store's file the pages lie
    targets    kvfs mounts, plain directories             offer     what this kvfs can be mounted with
      |        callgrind: the same, instructions counted  disks     ext4 on a loop device
    usage      CPU of daemon, kernel and others           system    processes, memory, caches, mounts
      |
    workers    forked clients, started together           metadata  native threads for lookups and creates
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
  shows them beside fio on tmpfs. Where Python would be a large part of a request (small random reads, lookups,
  creates), fio or a native client asks instead; a row has one kind of client on all its file systems.
* Who else used the CPUs meanwhile is measured and said, and so is a daemon that reads from a device in a row that
  is to be answered from memory.
"""
