"""A Debian root of our own, booted as a machine in QEMU (`vm`) or in namespaces (`lab`)."""
