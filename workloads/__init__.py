"""What is asked of a deployment: models, reasoning strategies, lengths, arrivals, traces, scenarios."""
