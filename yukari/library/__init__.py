"""
What is decided about models.

Here is what clients ask for, put together in `library`, and what is shown of it. `catalog` records
what is stored. `models` reads what a model consists of, and packs it into one file. `upkeep` keeps
the store within its bounds and its blobs sound.
"""
