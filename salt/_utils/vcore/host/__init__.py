"""This machine: its network, its mounts and the containers that run on it."""
