"""The brain of Virtual Core: what is wanted, and how it differs from what is there.

A plain Python package that uses none of the names which Salt injects. Salt's modules, states, runners, the external
pillar and the tests all import it, so that each rule of the project is written once. Each file has one subject.
"""
