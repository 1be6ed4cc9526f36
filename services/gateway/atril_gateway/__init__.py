"""The public front: task APIs and the Open Inference Protocol over an InferenceCore."""
