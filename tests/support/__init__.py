"""Programs, clients and connections that several test folders use."""
