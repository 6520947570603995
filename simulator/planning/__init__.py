"""Planning: the cheapest deployment that meets latency objectives under a load."""
