"""Networks with most of their kernels' values zero, fine-tuned so that they still tell fake from real."""
