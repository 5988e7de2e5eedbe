"""How the shared layer is applied: an executor for each kind of hardware."""
