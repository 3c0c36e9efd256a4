"""Code that tests of more than one folder use. pytest puts tests/ on the path, because of its conftest.py."""
