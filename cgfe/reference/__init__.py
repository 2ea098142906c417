"""What is derived from the training frames of one system, and whether it is converged."""
