"""What if: fields of a scenario varied, elasticities, break-even points and co-design of a GPU under a budget."""
