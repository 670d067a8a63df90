"""Where workers run: as processes of this machine, or on a cluster."""
