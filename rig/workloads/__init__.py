"""What is measured: kernels on a grid, networks around them, and the ONNX files that hold them."""
