"""The protocol without a socket: RFC examples, rules, hypothesis, and the two codecs as twins."""
