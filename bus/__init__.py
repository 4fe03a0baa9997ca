"""Liên Thông: a data-sharing bus between agency databases. Start at ARCHITECTURE.md."""
