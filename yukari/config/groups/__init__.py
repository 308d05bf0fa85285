"""
The declarations of the settings, a module for each group.
"""
