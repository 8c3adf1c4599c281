"""What is measured unless something else is asked for; light, so that the command's help need not wait for NumPy."""

from tfdfd.runtime.names import TENSORFLOW

# Latency: batch sizes, and seconds for each.
BATCHES, SECONDS = (1, 32), 5.0
# S0's Table 3. The batch is what `tfdfd detect` scores in one call.
IMAGES, BATCH, ROUNDS = 1000, 8, 3
RUNTIME = TENSORFLOW
