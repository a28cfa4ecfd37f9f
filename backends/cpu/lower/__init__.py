"""Handlers: how each op, or group of ops, becomes steps."""
