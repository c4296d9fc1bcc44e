"""``kvfs-replay``: real traces of LLM serving, played against what kvfs is made of."""
