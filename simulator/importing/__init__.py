"""Other tools' files turned into scenarios and measured tables, and a measurement beside a prediction."""
