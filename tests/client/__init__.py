"""The client: connecting, proxies, redirects, TLS, reconnecting; against real peers."""
