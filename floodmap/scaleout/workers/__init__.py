"""One scene over many workers: processes on this machine, or workers of a Dask cluster."""
