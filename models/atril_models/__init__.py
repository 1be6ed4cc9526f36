"""The architectures of the lectures as plain PyTorch modules, and the catalogue that names them."""
