"""Fast inference on CPUs and GPUs: fused layers, attention kernels, CUDA graphs and asynchronous batches."""
