"""The brain of Virtual Core: what is wanted, and how it differs from what is there.

A plain Python package without Salt's injected names. Salt's modules, states, runners, the external pillar
and the tests all import it, so each rule of the project is written once. One file holds one subject.
"""
