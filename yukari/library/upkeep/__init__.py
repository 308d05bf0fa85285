"""Keeping the store within its bounds, its blobs sound and the catalog true to it."""
