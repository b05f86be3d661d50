"""What the tool costs, measured against the floor: python -m benchmarks.step, .memory, .prior and .startup."""
