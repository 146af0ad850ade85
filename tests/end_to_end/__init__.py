"""The library as its users run it: real processes, real sockets, real peers.

programs        starts a process, and measures its resource use
echo_program    an application on http.server, with every engine setup; its routes are in `routes`
raw_client      HTTP and WebSockets by hand, over a plain socket
"""
