"""Where actors run: in this process, or on Ray."""
