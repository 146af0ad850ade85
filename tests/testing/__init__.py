"""Tests of `websocket_handler.testing`."""
