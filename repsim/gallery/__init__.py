"""A page that shows which measure answers which question, on one small example that is trained for it, and the traps.

    python -m repsim.gallery -o gallery.html

`example` trains the networks, `table` compares them by every measure of the registry, `traps` makes the data that
mislead measures, `chapters` says and draws what came out, `page` puts it together. Every number is computed in the run.
"""
