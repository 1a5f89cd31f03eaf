"""What differs between machines: TensorFlow, CPU and memory, writing files."""
