"""The library as its users meet it: real processes, real sockets, real peers.

programs        starts a process, and tells what it costs
echo_program    an application on http.server, in every home; its routes are in `routes`
raw_client      HTTP and WebSockets by hand, over a plain socket
"""
