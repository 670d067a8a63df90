"""From missing runs to trained ones: populations, worker processes, progress."""
