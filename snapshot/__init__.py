"""The contract between training and serving: a sealed, immutable folder of query tower, index and documents."""
