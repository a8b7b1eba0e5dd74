"""``rlgen dashboard``: the runs of a folder on a local web page, live."""
