"""Every store keeps the same promises: see `tests.storage.contract`."""
