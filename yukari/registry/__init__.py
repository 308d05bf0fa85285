"""The ``/v2/`` resource tree: parse a request, decide a reply, send its bytes."""
