"""What is asked of the kernel, a module an interface."""
