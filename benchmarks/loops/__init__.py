"""The same training loop in several libraries, each in a process of its own."""
