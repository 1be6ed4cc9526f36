"""What every service shares: errors, tensors, the inference port and the OIP front over it."""
