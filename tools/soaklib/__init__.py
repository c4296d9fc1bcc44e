"""The soak: clients in the styles of real engines on one mount at 95 % full, for an hour by default.

``content`` makes and verifies bytes, ``clients`` has the styles, ``crew`` runs them in processes, ``flat`` judges
memory and descriptors, ``command`` puts it together.
"""
