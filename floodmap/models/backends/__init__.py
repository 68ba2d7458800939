"""What makes networks fast on CPUs and GPUs."""
