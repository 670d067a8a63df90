"""One place for means and variances: moments, running averages, axis letters."""
