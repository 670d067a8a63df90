"""The one Conv and the one Dense of every network, and the schemes that act on their kernels."""
