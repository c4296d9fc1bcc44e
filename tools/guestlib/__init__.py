"""A throw-away virtual machine that has what the host's kernel may lack: NVMe, NVMe-oF targets and hosts, RDMA, new
FUSE.

``archive`` finds a kernel in the Debian archive, ``kernel`` keeps it unpacked, ``initramfs`` (with ``modules`` and
``cpio``) makes what it starts with, ``machine`` says what QEMU is to emulate, ``boot`` runs a command in it,
``command`` is the face.
"""
