"""Programs, clients and connections that several folders of tests use."""
