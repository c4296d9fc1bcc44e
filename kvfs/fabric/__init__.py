"""Devices and fabrics: what is under a store."""
