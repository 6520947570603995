"""The live page: sliders over GPU, model and batch, and what follows from them."""
