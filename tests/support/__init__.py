"""What tests of more than one folder use. pytest puts tests/ on the path, for the sake of its conftest.py."""
