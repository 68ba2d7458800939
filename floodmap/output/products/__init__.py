"""Hand-over products: STAC items, and vector files in the schema of Copernicus EMS."""
