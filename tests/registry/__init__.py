"""Tests of the ``/v2/`` resource tree."""
