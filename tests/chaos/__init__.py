"""Faults on purpose: a proxy that mistreats requests, and a seeded random mix of everything that can go wrong."""
