"""From stored runs to tables, figures and pages; never imports jax."""
