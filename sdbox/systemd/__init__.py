"""The way to systemd: its bus, and what goes over it."""
