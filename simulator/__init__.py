"""The simulator: operator graph, roofline cost, discrete events, result."""
