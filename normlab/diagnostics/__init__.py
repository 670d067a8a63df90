"""What is measured inside a network while it trains: gradients, activations, curvature."""
