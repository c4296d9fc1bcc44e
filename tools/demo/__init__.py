"""A real LLM's KV pages on a kvfs mount: what ``tools/quickstart`` runs once everything is set up.

A conversation's first turn is prefilled and its KV pages are written to the mount; the second turn is then
timed to its first token recomputed, and with those pages loaded cold and warm.
"""
