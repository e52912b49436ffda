"""Settings: typed, and checked before any data is read. Free of PyTorch."""
